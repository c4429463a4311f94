"""What a worker claims: due scenarios for its free slots, and short tasks ahead of free slots."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from vidan.db.session import Database
from vidan.domain.status import STOPPING
from vidan.domain.worker import WorkerOptions
from vidan.errors import DatabaseUnavailable, HandOver, LeaseLost, RunStopped
from vidan.protocol import claims, lifecycle, waiting
from vidan.protocol.claims import Claimant, Claimed
from vidan.tasks.task import Task
from vidan.worker.execution import Outcome
from vidan.worker.lease import Lease
from vidan.worker.missing_sources import MissingSources
from vidan.worker.runnable import Runnable
from vidan.worker.slots import ClaimedRun, Slots

log = logging.getLogger("vidan.worker")

AHEAD_PER_SLOT = 64
"""Most scenarios of tasks without a source, per slot, that are claimed before a slot is free."""
UNWRITTEN_PER_SLOT = 4 * AHEAD_PER_SLOT
"""While more outcomes than this, per slot, wait to be written, the worker claims nothing."""
MISSING_TASKS_SECONDS = 30.0
"""Shortest interval, in seconds, between two queries for waiting tasks that this worker lacks."""


class Claims:
    """Claims scenarios for one worker's slots, under the lease that the worker has at the time."""

    def __init__(
        self,
        options: WorkerOptions,
        tasks: Mapping[str, Task[..., Any]],
        slots: Slots,
        missing: MissingSources,
    ) -> None:
        self._options = options
        self._tasks = tuple(tasks)
        self._runnable = Runnable(tasks)
        self._slots = slots
        self._missing = missing
        self._held_back = False  # whether the last claim was left out: too many unwritten outcomes
        self._warned_of: set[str] = set()  # tasks that this worker lacks
        self._next_warning = 0.0
        # when the last tasks without a source ended, monotonic
        self._ended: deque[float] = deque(maxlen=slots.count * AHEAD_PER_SLOT)

    def scale(self, wanted: int | None) -> bool:
        """Have `wanted` slots, or with None as many as at the start. Returns whether it changed.

        The quarantine child keeps its one slot. A suspect stays alone in its process until it has
        ended or made progress.
        """
        count = wanted or self._options.slots
        if count == self._slots.count or self._options.quarantine:
            return False
        if count > self._slots.count == 1 and any(run.suspect for run in self._slots.runs()):
            return False
        log.info("%d slots from now on, after %d", count, self._slots.count)
        self._slots.resize(count)
        self._ended = deque(self._ended, maxlen=count * AHEAD_PER_SLOT)
        return True

    def claim(self, lease: Lease, *, hinted: bool) -> bool:
        """Claim for the free slots, and ahead of them as many short tasks as ended recently.

        Without a hint (`hinted`), and once a second, a cheaper statement asks first what is due.
        Returns whether tasks without a source, which may end at once, are among what was claimed.
        """
        # set before `unwritten` is read: `written` is called after `unwritten` has become lower
        self._held_back = True
        if self._slots.unwritten > UNWRITTEN_PER_SLOT * self._slots.count:
            return False  # the database accepts claims, but not the outcomes
        self._held_back = False
        free = max(0, self._slots.free)
        recent = 0 if self._options.quarantine else self._ended_recently()
        self._slots.few = recent // 2
        ahead = max(0, recent - self._slots.waiting)
        if not free and ahead <= recent // 2:
            return False  # a later claim, of more tasks, is cheaper
        if not self._look(lease, hinted=hinted):
            return False
        claimed = lease.database.retrying(
            claims.claim, self._claimant(lease), free, ahead=ahead, skip=self._missing.to_skip()
        )
        self._add(claimed)
        return any(not one.needs_source for one in claimed)

    def _look(self, lease: Lease, *, hinted: bool) -> bool:
        """Look what waits, if the last look is too old. Returns whether a claim is worth it."""
        if hinted and self._runnable.fresh:
            return True
        found = self._runnable.look(lease.database, self._options.queues, lease.versions)
        if not found:
            self._warn_of_missing_tasks(lease)
        return found

    def _claimant(self, lease: Lease) -> Claimant:
        return Claimant(
            worker_id=lease.worker_id,
            name=self._options.name,
            queues=self._options.queues,
            tasks=self._tasks,
            source=self._options.source,
            suspects=self._slots.count == 1,
            only_suspects=self._options.quarantine,
            capped=self._runnable.capped,
            definitions=self._runnable.definitions,
        )

    def _warn_of_missing_tasks(self, lease: Lease) -> None:
        """Warn once of each task that waits in the queues and that this worker lacks."""
        now = time.monotonic()
        if now < self._next_warning or self._options.quarantine:
            return
        self._next_warning = now + MISSING_TASKS_SECONDS
        with lease.database.autocommit() as connection:
            lacking = waiting.lacking(connection, self._options.queues, self._tasks)
        for task in sorted(lacking - self._warned_of):
            self._warned_of.add(task)
            log.warning("task %s is left to others: this worker does not have it", task)

    def written(self, outcomes: Sequence[Outcome]) -> None:
        """Note stored outcomes: for a second, as many short tasks may be claimed ahead of slots.

        Asks for another claim if it may take what the last one had to leave. Called in the thread
        that writes outcomes.
        """
        now = time.monotonic()
        self._ended.extend(now for one in outcomes if not one.claimed.needs_source)
        if self._held_back or any(one.claimed.task in self._runnable.capped for one in outcomes):
            self._slots.few_waiting.set()

    def _ended_recently(self) -> int:
        """Count the tasks without a source that ended in the last second."""
        limit = time.monotonic() - 1.0
        return sum(ended > limit for ended in self._ended.copy())

    def _add(self, claimed: list[Claimed]) -> None:
        runs = [ClaimedRun(one) for one in claimed]
        for run in runs:
            level = logging.INFO if run.claimed.needs_source else logging.DEBUG
            if log.isEnabledFor(level):
                with run.log_context():
                    log.log(level, "claimed: task %s", run.claimed.task)
        self._slots.add(runs)


def activate(database: Database, claimed: Claimed, *, actor: str) -> None:
    """Set a claimed scenario `active`.

    Raises LeaseLost if the worker has lost it, RunStopped if a user has asked it to stop.

    Raises HandOver if the database is unavailable: the hand-over waits until the database answers.
    """
    fence = claimed.fence
    try:
        started = database.retrying(lifecycle.start, [fence], actor=actor)
    except DatabaseUnavailable as error:
        raise HandOver(str(error)) from error
    status = started.get(fence.scenario_id)
    if status is None:
        raise LeaseLost(f"this worker no longer holds scenario {fence.scenario_id}")
    if status in STOPPING:
        raise RunStopped("a stop was asked for")
    log.info("active, from frame %d on", claimed.checkpoint)
