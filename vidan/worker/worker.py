"""A worker: one process, one device, several slots.

Its loop is synchronous and no run ever blocks it: it receives messages, claims scenarios and passes
them to the slots. Another thread writes how runs ended.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

from vidan import broker, inbox
from vidan.backoff import BackOff
from vidan.broker.base import Received
from vidan.broker.messages import RUNNERS_GROUP, SCENARIOS_TOPIC
from vidan.config import Settings
from vidan.detection.cache import DetectorCache
from vidan.domain.worker import WorkerOptions
from vidan.errors import DatabaseUnavailable, DeviceLost, LeaseLost
from vidan.processes.slotboard import SlotBoard
from vidan.run.context import RunContext
from vidan.tasks.task import Task
from vidan.worker.claiming import Claims, activate
from vidan.worker.execution import Outcome, run_scenario
from vidan.worker.lease import Lease, Measured
from vidan.worker.lease_holder import LeaseHolder
from vidan.worker.leaving import Leaving
from vidan.worker.missing_sources import MissingSources
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.polling import Polling
from vidan.worker.retry_events import RetryEvents
from vidan.worker.slots import ClaimedRun, FrameCount, Slots

log = logging.getLogger("vidan.worker")

AHEAD_SECONDS = 1.0
"""Longest time, in seconds, that a task which was claimed ahead waits for a slot before the worker
hands it over."""


class Worker:
    """Claims scenarios and runs them in its slots. `run_once` is one step of its loop.

    `replaces` is the registration of the process that this one replaces, if any.
    """

    def __init__(
        self,
        settings: Settings,
        options: WorkerOptions,
        registry: Mapping[str, Task[..., Any]],
        board: SlotBoard | None = None,
        replaces: UUID | None = None,
    ) -> None:
        self.stopping = False
        self._options = options
        self._registry = registry
        self._board = board
        connected = broker.connect(settings)
        self._producer = connected.producer()
        self._detectors = DetectorCache(
            options.device, options.threads, on_lost=_end_without_device
        )
        self._frames = FrameCount()
        self._leaving = Leaving(options.max_frames_per_child, self._frames)
        self._slots = Slots(options.slots, self._execute, board)
        consumer = connected.consumer(RUNNERS_GROUP, [SCENARIOS_TOPIC])
        self._polling = Polling(consumer, self._slots)
        self._retries = RetryEvents(self._producer)
        missing = MissingSources()
        self._outcome_writer = OutcomeWriter(options.name, self._retries, missing)
        self._claims = Claims(options, registry, self._slots, missing)
        self._lease_holder = LeaseHolder(
            settings,
            options,
            registry,
            self._slots,
            self._outcome_writer,
            board=board,
            replaces=replaces,
            on_written=self._claims.written,
            measure=self._measure,
            stopping=lambda: self.stopping,
        )

    @property
    def lease(self) -> Lease | None:
        """The lease that the worker holds; None before it has registered and after it has left."""
        return self._lease_holder.lease

    @property
    def retired(self) -> bool:
        """Whether the worker was asked to leave and not to be started again."""
        return self._leaving.retired

    def run(self) -> None:
        """Work until `stopping`, then hand over the runs and leave."""
        back_off = BackOff()
        while not self.stopping:
            try:
                self.run_once()
            except DatabaseUnavailable as error:
                log.warning("%s", error)
            except Exception:  # one failed round must not end the process, and with it all its runs
                if self.lease is None:
                    raise  # it can't register, and this is no outage: the supervisor sees the exit
                log.exception("a round failed")
            else:
                back_off.worked()
                continue
            time.sleep(back_off.pause())
        self.leave()

    def run_once(self) -> None:
        """Receive messages and claim scenarios: one step.

        Raises DatabaseUnavailable; the next call receives the same messages again.
        """
        lease = self._lease_holder.current()
        if lease is None:
            return
        leaving = self._leave_if_due(lease)
        self._scale(lease)
        received = self._receive()
        try:
            inbox.scenario_ids(lease.database, received)  # ids are hints: claims read the rows
            hinted = self._polling.hinted(received)
            if not leaving and (hinted or self._polling.sweep_due):
                short_tasks = self._claims.claim(lease, hinted=hinted)
                self._polling.plan_sweep(short_tasks=short_tasks, live_workers=lease.live_workers)
            self._lease_holder.hand_over_waiting(lease, "claimed ahead, not begun", AHEAD_SECONDS)
        except DatabaseUnavailable:
            self._polling.rewind(received)
            raise
        self._polling.commit(received)

    def leave(self) -> None:
        """Hand over the runs, then leave; the consumer group last, when all is written."""
        log.info("%s is leaving", self._options.name)
        self._lease_holder.leave()
        self._polling.close()
        self._retries.close()
        self._producer.close()

    def _leave_if_due(self, lease: Lease) -> bool:
        """Begin to leave when it is time to. Returns whether the worker is leaving."""
        if not self._leaving.should_leave(lease.desired):
            return False
        self._polling.close()  # so that other workers take its partitions over at once
        self._lease_holder.hand_over_waiting(lease, "not begun, the worker is leaving")
        if self._leaving.hand_over(lease.desired, self._slots):
            self.stopping = True
        return True

    def _scale(self, lease: Lease) -> None:
        """Have as many slots as users want; if that is fewer, hand over the waiting runs."""
        before = self._slots.count
        if not self._claims.scale(lease.desired_slots):
            return
        self._polling.claim_now = True
        if self._slots.count < before:
            self._lease_holder.hand_over_waiting(lease, "not begun, the worker has fewer slots")

    def _receive(self) -> list[Received]:
        if self._leaving.begun:
            self._polling.wait_for_room()
            return []
        return self._polling.receive()

    def _measure(self) -> Measured:
        leaving = self.stopping or self._leaving.begun
        state = "draining" if leaving else "busy" if self._slots.runs() else "idle"
        return Measured(state, self._frames.per_second(), self._slots.thread_count)

    def _execute(self, run: ClaimedRun, slot: int) -> Outcome:
        """Run one scenario; called in the slot's thread."""
        lease = self.lease
        assert lease is not None  # a lease is replaced only when none of its runs is left
        if lease.ended:  # claimed by a statement that was answered after the runs were interrupted
            run.control.interrupt(LeaseLost("the worker's lease has ended"))
        context = RunContext(
            database=lease.database,
            detectors=self._detectors,
            on_active=partial(activate, lease.database, run.claimed, actor=self._options.name),
            on_progress=partial(run.note_progress, quarantine=self._options.quarantine),
            on_frames=partial(self._frames.add, run),
            board=self._board,
            slot=slot,
        )
        with run.log_context():
            return run_scenario(run.claimed, self._registry, run.control, context)


def _end_without_device(error: DeviceLost) -> None:
    """End the process: every scenario that it claimed would fail. This counts as a death."""
    log.error("%s: ending the process", error)
    os._exit(1)
