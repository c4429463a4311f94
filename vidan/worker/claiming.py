"""What a worker takes on: due scenarios for its free slots, and short tasks ahead of them."""

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
from vidan.protocol import claims, lifecycle
from vidan.protocol.claims import Claimant, Claimed
from vidan.protocol.fences import Fence
from vidan.tasks.task import Task
from vidan.worker.execution import Outcome
from vidan.worker.lease import Lease
from vidan.worker.missing_sources import MissingSources
from vidan.worker.slots import ClaimedRun, Slots

log = logging.getLogger("vidan.worker")

AHEAD_PER_SLOT = 64
"""At most so many scenarios of tasks without a source are claimed ahead, a slot."""
UNWRITTEN_PER_SLOT = 4 * AHEAD_PER_SLOT
"""Nothing is claimed while more ends than so many wait for the database, a slot."""
LOOK_SECONDS = 30.0
"""How often it is asked at most which tasks wait that this worker lacks."""


class Claims:
    """Claims for one worker's slots, under whatever lease it has at the time."""

    def __init__(
        self,
        options: WorkerOptions,
        tasks: Mapping[str, Task[..., Any]],
        slots: Slots,
        missing: MissingSources,
    ) -> None:
        self._options = options
        self._tasks = tuple(tasks)
        self._capped = tuple(name for name, task in tasks.items() if task.spec.capped)
        self._slots = slots
        self._missing = missing
        self._held_back = False
        self._left: set[str] = set()  # tasks that others have, told of once
        self._next_look = 0.0
        self._ended: deque[float] = deque(maxlen=slots.count * AHEAD_PER_SLOT)

    def scale(self, wanted: int | None) -> bool:
        """Have as many slots as are wanted; None: as the worker was started. Whether that is new.

        The quarantine child keeps its one; and a suspect stays alone until it has ended or got on.
        """
        count = wanted or self._options.slots
        if count == self._slots.count or self._options.quarantine:
            return False
        if count > self._slots.count == 1 and any(e.suspect for e in self._slots.engaged()):
            return False
        log.info("%d slots from now on, after %d", count, self._slots.count)
        self._slots.resize(count)
        self._ended = deque(self._ended, maxlen=count * AHEAD_PER_SLOT)
        return True

    def take(self, lease: Lease, *, told: bool) -> bool:
        """Claim for the free slots, and ahead of them as many short tasks as lately ended.

        `told`: something says that there is work; else it is asked first whether there is. Returns
        whether any without a source, which may end at once, are among what was claimed.
        """
        self._held_back = True  # before it is looked: see `ended`
        if self._slots.unwritten > UNWRITTEN_PER_SLOT * self._slots.count:
            return False  # the database takes claims, but not what becomes of them
        self._held_back = False
        free = max(0, self._slots.free)
        lately = 0 if self._options.quarantine else self._ended_lately()
        self._slots.low_water = lately // 2
        ahead = max(0, lately - self._slots.waiting)
        if not free and ahead <= lately // 2:
            return False  # soon it will be worth a statement
        if not told:
            with lease.database.autocommit() as connection:
                found = claims.any_due(connection, self._options.queues, self._tasks)
            if not found:
                self._tell_of_others_tasks(lease)
                return False
        claimant = Claimant(
            worker_id=lease.worker_id,
            name=self._options.name,
            queues=self._options.queues,
            tasks=self._tasks,
            source=self._options.source,
            suspects=self._slots.count == 1,
            only_suspects=self._options.quarantine,
            capped=self._capped,
        )
        skip = self._missing.skip()
        claimed = lease.database.retrying(
            lambda c: claims.claim(c, claimant, free, ahead=ahead, skip=skip)
        )
        self._engage(claimed)
        return any(not one.needs_source for one in claimed)

    def _tell_of_others_tasks(self, lease: Lease) -> None:
        """Say once of each task that waits here and that this worker lacks."""
        now = time.monotonic()
        if now < self._next_look or self._options.quarantine:
            return
        self._next_look = now + LOOK_SECONDS
        with lease.database.autocommit() as connection:
            waiting = claims.lacking(connection, self._options.queues, self._tasks)
        for task in sorted(waiting - self._left):
            self._left.add(task)
            log.warning("task %s is left to others: this worker does not have it", task)

    def ended(self, outcomes: Sequence[Outcome]) -> bool:
        """Note what has ended and is written: so many may be claimed ahead for a while.

        Returns whether a claim may find now what it could not take while it was unwritten. May be
        called in another thread.
        """
        now = time.monotonic()
        self._ended.extend(now for one in outcomes if not one.claimed.needs_source)
        return self._held_back or any(one.claimed.task in self._capped for one in outcomes)

    def _ended_lately(self) -> int:
        limit = time.monotonic() - 1.0
        return sum(ended > limit for ended in self._ended.copy())

    def _engage(self, claimed: list[Claimed]) -> None:
        engagements = [ClaimedRun(one) for one in claimed]
        for engagement in engagements:
            level = logging.INFO if engagement.claimed.needs_source else logging.DEBUG
            if log.isEnabledFor(level):
                with engagement.about():
                    log.log(level, "claimed: task %s", engagement.claimed.task)
        self._slots.add(engagements)


def activate(database: Database, fence: Fence, *, actor: str) -> None:
    """Set a claimed scenario `active`. Raises what came between: LeaseLost or RunStopped.

    Raises HandOver if the database is away: to put it back waits for that, and is pause enough.
    """
    try:
        started = database.retrying(lambda c: lifecycle.start(c, [fence], actor=actor))
    except DatabaseUnavailable as error:
        raise HandOver(str(error)) from error
    status = started.get(fence.scenario_id)
    if status is None:
        raise LeaseLost(f"scenario {fence.scenario_id} is another's now")
    if status in STOPPING:
        raise RunStopped("a stop was asked for")
