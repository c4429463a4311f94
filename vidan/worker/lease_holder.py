"""Holds a worker's lease from its registration to its end, and replaces one that has ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from vidan.config import Settings
from vidan.domain.worker import WorkerOptions
from vidan.errors import DatabaseUnavailable, HandOver, LeaseLost
from vidan.processes.slotboard import Ended, SlotBoard
from vidan.protocol.fences import Fence
from vidan.protocol.heartbeats import Held
from vidan.services import versions
from vidan.tasks import versions as app_versions
from vidan.tasks.task import Task
from vidan.worker.execution import Outcome
from vidan.worker.lease import Lease, Measured
from vidan.worker.outcomes import OutcomeThread, OutcomeWriter
from vidan.worker.reconciliation import Reconciliation
from vidan.worker.slots import Slots

log = logging.getLogger("vidan.worker")

ABANDON_SECONDS = 30.0
"""Longest time, in seconds, that the runs of an ended lease have to stop; then the process ends."""
HURRIED_SECONDS = 5.0
"""The same time, in seconds, while the process is asked to end."""


class LeaseHolder:
    """Holds one lease at a time for a worker, together with the thread that writes outcomes.

    When a lease ends, its runs are interrupted and their outcomes are not written. Once all of them
    have stopped, the worker registers again, under another id.
    """

    def __init__(
        self,
        settings: Settings,
        options: WorkerOptions,
        registry: Mapping[str, Task[..., Any]],
        slots: Slots,
        writer: OutcomeWriter,
        *,
        board: SlotBoard | None,
        replaces: UUID | None,
        on_written: Callable[[Sequence[Outcome]], None],
        measure: Callable[[], Measured],
        stopping: Callable[[], bool],
    ) -> None:
        self.lease: Lease | None = None
        self.outcome_thread: OutcomeThread | None = None
        """The thread that writes outcomes under this lease."""
        self._settings = settings
        self._options = options
        self._registry = registry
        self._brought = app_versions.brought(options.app, registry)
        self._slots = slots
        self._writer = writer
        self._board = board
        self._replaces = replaces
        self._on_written = on_written
        self._measure = measure
        self._stopping = stopping
        self._reconciliation = Reconciliation()

    def current(self) -> Lease | None:
        """Return the lease, a new one if none is held or it has ended; None while `stopping`.

        Raises DatabaseUnavailable.
        """
        if self.lease is not None and not self.lease.ended:
            return self.lease
        if self.lease is not None:
            self._abandon(self.lease)
        return None if self._stopping() else self._register()

    def hand_over_waiting(self, lease: Lease, reason: str, older_than: float = 0.0) -> None:
        """Hand over the runs that have waited longer than `older_than` seconds for a slot."""
        fences = [run.claimed.fence for run in self._slots.take_back_waiting(older_than)]
        if not fences:
            return
        try:
            self._writer.hand_over(lease.database, fences, reason)
        finally:
            # without the database, a later heartbeat finds these rows without a run, and hands
            # them over
            self._slots.forget(fences)

    def leave(self) -> None:
        """Hand over all runs, write how the others ended, and sign off."""
        self._close_thread()
        while self.lease is not None and not self._has_left(self.lease):
            self._slots.ended.wait(0.2)

    def _register(self) -> Lease:
        lease = Lease(
            self._settings.require_database(direct=True),
            self._options,
            tuple(self._registry),
            self._board,
            on_beat=self._reconcile,
            on_end=self._interrupt_all,
            measure=self._measure,
            replaces=self._replaces,
        )
        try:
            lease.versions = lease.database.retrying(versions.register, self._brought)
            lease.begin(also=versions.govern)
        except BaseException:
            lease.close()
            raise
        log.info("%s registered as %s", self._options.name, lease.worker_id)
        self.lease = lease
        self.outcome_thread = OutcomeThread(lease, self._slots, self._writer, self._on_written)
        self._replaces = lease.worker_id
        return lease

    def _abandon(self, lease: Lease) -> None:
        """Give up an ended lease once its runs have stopped; nothing of them may be written."""
        self._outlast_runs()
        lease.give_up()
        self.lease = None

    def _outlast_runs(self) -> None:
        """Wait until the runs of an ended lease have stopped.

        If a run hangs, the process is ended, and no scenario is charged. It ends without the
        interpreter's own exit, which aborts while a thread is in the middle of native code.
        """
        self._close_thread()
        self._slots.forget(run.claimed.fence for run in self._slots.take_back_waiting())
        began = time.monotonic()
        while self._slots.runs():
            stopping = self._stopping()
            if time.monotonic() - began > (HURRIED_SECONDS if stopping else ABANDON_SECONDS):
                self._end_process(stopping)
            self._slots.forget(outcome.claimed.fence for outcome in self._slots.outcomes())
            self._slots.ended.wait(0.1)

    def _end_process(self, stopping: bool) -> None:
        level = logging.WARNING if stopping else logging.ERROR
        log.log(level, "runs of an ended lease do not stop: ending the process")
        if self._board is not None:
            self._board.clear()
            if stopping:  # it holds nothing, so it has done what it was asked for
                self._board.ended = Ended.LEFT
        os._exit(0 if stopping else 1)

    def _has_left(self, lease: Lease) -> bool:
        """Take one step of leaving. Returns whether no run is left and the lease is given up."""
        if lease.ended:
            self._abandon(lease)
            return True
        self._slots.interrupt(lambda: HandOver("the worker is leaving"))
        try:
            self.hand_over_waiting(lease, "handed over")
            self._write_ended()
        except DatabaseUnavailable as error:
            log.warning("%s", error)
            time.sleep(0.5)
        except Exception:  # expiry hands over what a lease that was given up still holds
            log.exception("leaving failed")
            lease.give_up()
            self._outlast_runs()
            self.lease = None
            return True
        if self._slots.runs():
            return False
        lease.give_up()
        self.lease = None
        return True

    def _write_ended(self) -> None:
        if self.outcome_thread is not None:
            self.outcome_thread.write_ended()

    def _close_thread(self) -> None:
        if self.outcome_thread is not None:
            self.outcome_thread.close()

    def _interrupt_all(self) -> None:
        self._slots.interrupt(lambda: LeaseLost("the worker's lease has ended"))

    def _reconcile(self, held: Sequence[Held], sent: float) -> None:
        rows = self._reconciliation.rows_without_run(held, self._slots.runs(), sent)
        lease = self.lease
        if rows and lease is not None:
            fences = [Fence(row.scenario_id, row.epoch, lease.worker_id) for row in rows]
            self._writer.hand_over(lease.database, fences, "the claim's answer was lost")
