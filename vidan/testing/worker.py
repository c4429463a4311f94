"""A worker inside of the calling process: it runs one due scenario at a time, when called.

Its lease, claim, run and end are those of any worker. It needs no broker: claims read the database.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from vidan.broker.base import Raw
from vidan.detection.cache import DetectorCache
from vidan.domain.worker import WorkerOptions
from vidan.errors import HandOver, LeaseLost
from vidan.protocol import claims, tasks
from vidan.protocol.claims import Claimant, Claimed
from vidan.protocol.fences import Fence
from vidan.protocol.heartbeats import Held
from vidan.run.context import RunContext
from vidan.tasks.task import Task
from vidan.testing import queries
from vidan.worker.claiming import activate
from vidan.worker.execution import Outcome, run_scenario
from vidan.worker.lease import Lease, Measured
from vidan.worker.missing_sources import MissingSources
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.reconciliation import Reconciliation
from vidan.worker.retry_events import RetryEvents
from vidan.worker.runnable import Runnable
from vidan.worker.slots import ClaimedRun

log = logging.getLogger("vidan.worker")

HURRIED_SECONDS = 5.0
"""Longest time, in seconds, that a run has to end after Ctrl-C."""


class InProcess:
    """Runs scenarios of `registry`, which may grow, each in a thread, and waits for the thread.

    The slots of a worker are threads as well: code that works only in a process's main thread fails
    here too. A task that waits for another scenario runs that one inside of its own run.
    """

    def __init__(self, url: str, registry: Mapping[str, Task[..., Any]], device: str) -> None:
        self._url = url
        self._registry = registry
        self._options = WorkerOptions(f"test@{socket.gethostname()}", device=device)
        self._detectors = DetectorCache(device)
        self._retries = RetryEvents(_NoBroker())
        missing = MissingSources(patience=0)  # there is no other host
        self._outcome_writer = OutcomeWriter(self._options.name, self._retries, missing)
        self._reconciliation = Reconciliation()
        self._runs: list[ClaimedRun] = []
        self._lease = self._begin()

    def step(self) -> bool:
        """Run the scenario that is due first to its end; return whether there was one.

        Ctrl-C ends the run at its next frame and hands it over. Raises DatabaseUnavailable.
        """
        lease = self._current_lease()
        with lease.database.autocommit() as connection:
            queues = queries.queues(connection)
        runnable = Runnable(self._registry)
        runnable.look(lease.database, queues, lease.versions)
        claimant = Claimant(
            worker_id=lease.worker_id,
            name=self._options.name,
            queues=tuple(queues),
            tasks=tuple(self._registry),
            suspects=True,
            heeds_caps=False,
            definitions=runnable.definitions,
        )
        claimed = lease.database.retrying(claims.claim, claimant, 1)
        for one in claimed:
            self._outcome_writer.write(lease.database, self._run(lease, one))
            if lease.ended:  # no orchestrator runs that would release the scenario
                self._outcome_writer.hand_over(lease.database, [one.fence], "its lease has ended")
        return bool(claimed)

    def close(self) -> None:
        """Sign off; what still runs is handed over."""
        for run in list(self._runs):
            run.control.interrupt(HandOver("the test has ended"))
        self._lease.give_up()
        self._retries.close()

    def _begin(self) -> Lease:
        lease = Lease(
            self._url,
            self._options,
            tuple(self._registry),
            None,
            on_beat=self._reconcile,
            on_end=self._interrupt_all,
            measure=lambda: Measured("busy" if self._runs else "idle", fps=0.0),
        )
        specs = [task.spec for task in self._registry.values()]
        try:
            lease.database.retrying(tasks.publish, specs)
            lease.begin()
        except BaseException:
            lease.close()
            raise
        return lease

    def _current_lease(self) -> Lease:
        """Return the lease: a new one if a debugger has held the heartbeat up for too long."""
        if self._lease.ended:
            self._lease.give_up()
            self._lease = self._begin()
        return self._lease

    def _run(self, lease: Lease, claimed: Claimed) -> Sequence[Outcome]:
        run = ClaimedRun(claimed)
        context = RunContext(
            database=lease.database,
            detectors=self._detectors,
            on_active=partial(activate, lease.database, claimed, actor=self._options.name),
        )
        outcomes: list[Outcome] = []

        def execute() -> None:
            with run.log_context():
                outcomes.append(run_scenario(claimed, self._registry, run.control, context))

        thread = threading.Thread(target=execute, name=f"scenario-{run.id}", daemon=True)
        self._runs.append(run)
        try:
            thread.start()
            thread.join()
        except BaseException:
            run.control.interrupt(HandOver("the test was interrupted"))
            thread.join(HURRIED_SECONDS)
            self._outcome_writer.write(lease.database, outcomes)
            raise
        finally:
            self._runs.remove(run)
        return outcomes

    def _reconcile(self, held: list[Held], sent: float) -> None:
        rows = self._reconciliation.rows_without_run(held, list(self._runs), sent)
        if rows:
            fences = [Fence(row.scenario_id, row.epoch, self._lease.worker_id) for row in rows]
            self._outcome_writer.hand_over(self._lease.database, fences, "its run was interrupted")

    def _interrupt_all(self) -> None:
        for run in list(self._runs):
            run.control.interrupt(LeaseLost("the lease has ended"))


class _NoBroker:
    """A producer that drops its messages: this worker finds its work in the database."""

    def send(self, topic: str, scenario_ids: Sequence[int]) -> list[int]:  # noqa: ARG002
        """See `broker.base.Producer`."""
        return []

    def send_raw(self, topic: str, messages: Sequence[Raw]) -> list[int]:  # noqa: ARG002
        """See `broker.base.Producer`."""
        return []

    def close(self) -> None:
        """See `broker.base.Producer`."""
