"""What a worker takes on: due scenarios for its free slots, and short tasks ahead of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Sequence

from vidan.concluding import MissingSources
from vidan.domain import STOPPING
from vidan.errors import LeaseLost, RunStopped
from vidan.lease import Lease
from vidan.runner import Outcome
from vidan.services import leases, runs
from vidan.services.leases import Claimant, Claimed
from vidan.slots import Engagement, Slots
from vidan.worker_options import WorkerOptions

log = logging.getLogger("vidan.worker")

AHEAD_PER_SLOT = 64
"""At most so many scenarios of tasks without a source are claimed ahead, a slot."""


class Claims:
    """Claims for one worker's slots, under whatever lease it has at the time."""

    def __init__(
        self, options: WorkerOptions, tasks: Collection[str], slots: Slots, missing: MissingSources
    ) -> None:
        self._options = options
        self._tasks = tuple(tasks)
        self._slots = slots
        self._missing = missing
        self._ended: deque[float] = deque(maxlen=options.slots * AHEAD_PER_SLOT)

    def take(self, lease: Lease) -> None:
        """Claim for the free slots; then ahead, as many short tasks as lately ended."""
        free = self._slots.free
        claimant = Claimant(
            worker_id=lease.worker_id,
            name=self._options.name,
            queues=self._options.queues,
            tasks=self._tasks,
            source=self._options.source,
            suspects=self._options.slots == 1,
            only_suspects=self._options.quarantine,
        )
        skip = self._missing.skip()
        if free > 0:
            claimed = lease.database.retrying(lambda c: leases.claim(c, claimant, free, skip=skip))
            self._engage(lease, claimed)
        lately = min(self._ended_lately(), AHEAD_PER_SLOT * self._options.slots)
        ahead = lately + self._slots.free
        if lately and ahead > 0 and not self._options.quarantine:
            claimed = lease.database.retrying(
                lambda c: leases.claim(c, claimant, ahead, skip=skip, without_source=True)
            )
            self._engage(lease, claimed)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Note what has ended: so many short tasks may be claimed ahead for a while."""
        now = time.monotonic()
        self._ended.extend(now for one in outcomes if not one.claimed.needs_source)

    def _ended_lately(self) -> int:
        limit = time.monotonic() - 1.0
        return sum(ended > limit for ended in self._ended)

    def _engage(self, lease: Lease, claimed: list[Claimed]) -> None:
        """Start those without a source, all at once, and hand everything to the slots."""
        engagements = [Engagement(one) for one in claimed]
        for engagement in engagements:
            with engagement.about():
                level = logging.INFO if engagement.claimed.needs_source else logging.DEBUG
                log.log(level, "claimed: task %s", engagement.claimed.task)
        self._start(lease, [one for one in engagements if not one.claimed.needs_source])
        self._slots.add(engagements)

    def _start(self, lease: Lease, short: list[Engagement]) -> None:
        if not short:
            return
        fences = [one.claimed.fence for one in short]
        started = lease.database.retrying(lambda c: runs.start(c, fences, actor=self._options.name))
        for engagement in short:
            status = started.get(engagement.id)
            if status is None:
                engagement.control.interrupt(LeaseLost(f"scenario {engagement.id}"))
            elif status in STOPPING:
                engagement.control.interrupt(RunStopped("a stop was asked for"))
