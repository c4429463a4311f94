"""A worker inside of the process that calls it: one due scenario at a time, when it is told to.

Its lease, claim, run and end are those of any worker. There is no broker: a claim needs none.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
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
from vidan.worker.slots import ClaimedRun

log = logging.getLogger("vidan.worker")

HURRIED_SECONDS = 5.0
"""So long a run has to end after Ctrl-C."""


class InProcess:
    """Runs scenarios of `registry`, which may grow, each in a thread that is waited for.

    In a thread, since a worker's slots are: what works only in a process's main thread fails here
    too. A task that waits for another scenario runs it inside of its own run.
    """

    def __init__(self, url: str, registry: Mapping[str, Task[..., Any]], device: str) -> None:
        self._url = url
        self._registry = registry
        self._options = WorkerOptions(f"test@{socket.gethostname()}", device=device)
        self._detectors = DetectorCache(device)
        self._retries = RetryEvents(_NoBroker())
        missing = MissingSources(patience=0)  # there is no other host
        self._conclusions = OutcomeWriter(self._options.name, self._retries, missing)
        self._comparison = Reconciliation()
        self._engaged: list[ClaimedRun] = []
        self._lease = self._begin()

    def step(self) -> bool:
        """Run the scenario that is due first, to its end; returns whether there was one.

        Ctrl-C ends the run at its next frame, and it is put back. Raises DatabaseUnavailable.
        """
        lease = self._current_lease()
        with lease.database.autocommit() as connection:
            queues = queries.queues(connection)
        claimant = Claimant(
            worker_id=lease.worker_id,
            name=self._options.name,
            queues=tuple(queues),
            tasks=tuple(self._registry),
            suspects=True,
        )
        claimed = lease.database.retrying(lambda c: claims.claim(c, claimant, 1))
        for one in claimed:
            self._conclusions.write(lease.database, self._run(lease, one))
            if lease.ended:  # there is no orchestrator that would release it
                self._conclusions.put_back(lease.database, [one.fence], "its lease has ended")
        return bool(claimed)

    def close(self) -> None:
        """Sign off: what still runs is put back."""
        for engagement in list(self._engaged):
            engagement.control.interrupt(HandOver("the test has ended"))
        self._lease.give_up()
        self._retries.close()

    def _begin(self) -> Lease:
        lease = Lease(
            self._url,
            self._options,
            tuple(self._registry),
            None,
            on_beat=self._compare,
            on_end=self._lose_all,
            measure=lambda: Measured("busy" if self._engaged else "idle", fps=0.0),
        )
        specs = [task.spec for task in self._registry.values()]
        try:
            lease.database.retrying(lambda c: tasks.publish(c, specs))
            lease.begin()
        except BaseException:
            lease.close()
            raise
        return lease

    def _current_lease(self) -> Lease:
        """Return the lease; a new one if a debugger has held up the heartbeat for too long."""
        if self._lease.ended:
            self._lease.give_up()
            self._lease = self._begin()
        return self._lease

    def _run(self, lease: Lease, claimed: Claimed) -> Sequence[Outcome]:
        engagement = ClaimedRun(claimed)
        around = RunContext(
            database=lease.database,
            detectors=self._detectors,
            on_active=lambda: activate(lease.database, claimed.fence, actor=self._options.name),
        )
        outcomes: list[Outcome] = []

        def run() -> None:
            with engagement.about():
                outcomes.append(run_scenario(claimed, self._registry, engagement.control, around))

        thread = threading.Thread(target=run, name=f"scenario-{engagement.id}", daemon=True)
        self._engaged.append(engagement)
        try:
            thread.start()
            thread.join()
        except BaseException:
            engagement.control.interrupt(HandOver("the test was interrupted"))
            thread.join(HURRIED_SECONDS)
            self._conclusions.write(lease.database, outcomes)
            raise
        finally:
            self._engaged.remove(engagement)
        return outcomes

    def _compare(self, held: list[Held], sent: float) -> None:
        lost = self._comparison.orphans(held, list(self._engaged), sent)
        if lost:
            fences = [Fence(row.scenario_id, row.epoch, self._lease.worker_id) for row in lost]
            self._conclusions.put_back(self._lease.database, fences, "its run was interrupted")

    def _lose_all(self) -> None:
        for engagement in list(self._engaged):
            engagement.control.interrupt(LeaseLost("the lease has ended"))


class _NoBroker:
    """Takes what would be announced: rows are looked at, and nobody listens."""

    def send(self, topic: str, scenario_ids: Sequence[int]) -> list[int]:  # noqa: ARG002
        """See `broker.base.Producer`."""
        return []

    def send_raw(self, topic: str, messages: Sequence[Raw]) -> list[int]:  # noqa: ARG002
        """See `broker.base.Producer`."""
        return []

    def close(self) -> None:
        """See `broker.base.Producer`."""
