"""The model: how each scenario should stand after each step.

It is plain Python, written from the text of the architecture and not from the services.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from vidan.domain.detection import Gap
from vidan.domain.status import ENDED, HELD, RUNNING, STOPPING, Status
from vidan.protocol.claims import Claimant
from vidan.protocol.commits import Batch, Row
from vidan.protocol.fences import Fence


class Announcement(Enum):
    """How `announce_at` stands to the present."""

    NONE = "none"
    DUE = "due"
    LATER = "later"


class Refused(Enum):
    """How a user's request is refused."""

    NOT_ALLOWED = "not allowed"
    NOT_FOUND = "not found"


@dataclass
class Expected:
    """The expected state of one scenario."""

    id: int
    key: str | None
    queue: str
    priority: int
    needs_source: bool
    source: str | None
    status: Status
    max_attempts: int
    max_crashes: int
    due: bool = True
    announcement: Announcement = Announcement.NONE
    bound: bool = False
    epoch: int = 0
    worker: UUID | None = None
    attempts: int = 0
    crashes: int = 0
    checkpoint: int = 0
    frames: list[int] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    started: bool = False
    history: list[tuple[Status | None, Status]] = field(default_factory=list)
    not_before: datetime | None = None  # as read from the database; claims are ordered by it

    def __post_init__(self) -> None:
        self.history.append((None, self.status))
        if self.status is Status.INIT_STARTUP:
            self._announce()

    def _move(self, to: Status) -> None:
        self.history.append((self.status, to))
        self.status = to
        if to not in HELD:
            self.worker = None
        if to is not Status.INIT_STARTUP:
            self.announcement = Announcement.NONE

    def _announce(self) -> None:
        self.announcement = Announcement.DUE if self.due else Announcement.LATER

    def belongs_to(self, fence: Fence) -> bool:
        """Whether a write under this fence may still change the row."""
        return self.status in HELD and (self.epoch, self.worker) == (fence.epoch, fence.worker_id)

    # --- claims

    def can_be_claimed_by(self, claimant: Claimant, *, without_source: bool = False) -> bool:
        """Whether the scenario waits, is due, and can be run by this worker."""
        waits = self.status is Status.INIT_STARTUP and self.due
        if not waits or self.queue not in claimant.queues:
            return False
        if self.needs_source:
            if without_source:
                return False
            if claimant.source is None:  # it runs scenarios that name a source
                fits = self.source is not None and not self.bound
            else:
                fits = self.source in (None, claimant.source)
            if not fits:
                return False
        suspect = self.crashes > 1
        if claimant.only_suspects:
            return suspect and not without_source
        return not suspect or (claimant.suspects and not without_source)

    def claim(self, claimant: Claimant) -> None:
        """A worker claims the scenario; without a source it is active at once."""
        self.epoch += 1
        if self.needs_source and self.source is None:
            self.source, self.bound = claimant.source, True
        self._move(Status.INIT_STARTUP_PROCESSING)
        self.worker = claimant.worker_id
        if not self.needs_source:
            self.activate()

    # --- a run

    def activate(self) -> None:
        """The run begins, unless a stop was requested before."""
        if self.status is Status.INIT_STARTUP_PROCESSING:
            self.started = True
            self._move(Status.ACTIVE)

    def takes(self, fence: Fence, batch: Batch) -> bool:
        """Whether a commit of this batch stores it."""
        return (
            self.belongs_to(fence)
            and self.status is not Status.INIT_STARTUP_PROCESSING
            and self.checkpoint == batch.from_checkpoint
        )

    def landed(self, fence: Fence, batch: Batch) -> bool:
        """Whether an earlier attempt has stored this batch."""
        return (
            self.belongs_to(fence)
            and self.checkpoint == batch.to_checkpoint > batch.from_checkpoint
        )

    def commit(self, batch: Batch, state: dict[str, Any]) -> None:
        """Frames, gaps, checkpoint and state move together."""
        self.checkpoint = batch.to_checkpoint
        self.frames += [row.frame for row in batch.rows]
        self.gaps += [(gap.from_frame, gap.to_frame) for gap in batch.gaps]
        self.state = state
        if batch.clear_budgets:
            self.attempts = self.crashes = 0

    def finish(self, wanted: Status, result: Any, state: dict[str, Any] | None) -> bool:
        """The run ended by itself. Returns whether that can be written."""
        if wanted is Status.COMPLETED:
            self.activate()
            completed = self.status is not Status.IN_SHUTDOWN_PROCESSING
            to = Status.COMPLETED if completed else Status.INACTIVE
        elif self.status in STOPPING:
            to = Status.INACTIVE
        elif wanted is Status.FAILED:
            to = Status.FAILED
        else:
            return False  # no user has asked for a stop
        self._move(to)
        if to is Status.COMPLETED:
            self.result = result
        if state is not None:
            self.state = state
        return True

    def shut_down(self) -> bool:
        """The run reports that it is shutting down. Returns whether that can be written."""
        if self.status is not Status.INIT_SHUTDOWN:
            return False
        self._move(Status.IN_SHUTDOWN_PROCESSING)
        return True

    def fail(self) -> None:
        """The run raised an error: it is charged, and retried later within the budget."""
        spent = self.attempts >= self.max_attempts
        self.attempts += 1
        if self.status in STOPPING:
            self._move(Status.INACTIVE)
        elif spent:
            self._move(Status.FAILED)
        else:
            self._move(Status.INIT_STARTUP)  # not announced: an event goes to the retry topic
            self.due = False

    # --- leaving a worker

    def hand_over(self) -> None:
        """The worker hands the scenario over, or its lease ended: nothing is charged."""
        if self.status in STOPPING:
            self._move(Status.INACTIVE)
            return
        self._move(Status.INIT_STARTUP)
        self.due = True
        self._announce()

    def die(self) -> None:
        """The worker died, and the scenario is charged; after a first death it is due at once."""
        assert self.status in RUNNING
        spent = self.crashes >= self.max_crashes
        self.due = self.crashes == 0
        self.crashes += 1
        if spent:
            self._move(Status.FAILED)
        else:
            self._move(Status.INIT_STARTUP)
            self._announce()

    # --- users

    def ask_start(self, *, from_beginning: bool = False) -> bool | Refused:
        """Return the answer to a user who starts the scenario."""
        if from_beginning:
            if self.status not in ENDED:
                return Refused.NOT_ALLOWED
            self.checkpoint, self.frames, self.gaps, self.state = 0, [], [], {}
            self.started = False
        elif self.status in {*STOPPING, Status.COMPLETED}:
            return Refused.NOT_ALLOWED
        elif self.status not in ENDED:
            return False
        self._begin_again()
        return True

    def ask_retry(self) -> bool | Refused:
        """Return the answer to a user who retries the scenario."""
        if self.status is not Status.FAILED:
            return Refused.NOT_ALLOWED
        self._begin_again()
        return True

    def _begin_again(self) -> None:
        self.attempts = self.crashes = 0
        self.result = None
        self.due = True
        self._move(Status.INIT_STARTUP)
        self._announce()

    def ask_stop(self) -> bool | Refused:
        """Return the answer to a user who stops the scenario."""
        if self.status in {*STOPPING, Status.INACTIVE}:
            return False
        if self.status in ENDED:
            return Refused.NOT_ALLOWED
        waits = self.status is Status.INIT_STARTUP
        self._move(Status.INACTIVE if waits else Status.INIT_SHUTDOWN)
        return True

    @property
    def may_be_deleted(self) -> bool:
        """Whether a user may delete the scenario: it has ended."""
        return self.status in ENDED

    # --- announcements and time

    def restart(self) -> bool:
        """A retry event was read. Returns whether an announcement is planned."""
        if self.status is not Status.INIT_STARTUP:
            return False
        self._announce()
        return True

    def announce_again(self) -> None:
        """The announcement could not be delivered, and is planned again."""
        if self.status is Status.INIT_STARTUP and self.announcement is Announcement.NONE:
            self.announcement = Announcement.LATER

    def time_passes(self) -> bool:
        """The time that the scenario waits for has come."""
        self.due = True
        if self.announcement is Announcement.LATER:
            self.announcement = Announcement.DUE
        return self.due


def batch_of(
    start: int,
    length: int,
    gap: tuple[int, int] | None,
    state: dict[str, Any],
    *,
    clear: bool,
) -> Batch:
    """Return a commit of `length` frames from `start`; those in `gap` (both included) are lost."""
    lost = range(0) if gap is None else range(gap[0], gap[1] + 1)
    return Batch(
        from_checkpoint=start,
        to_checkpoint=start + length,
        checkpoint_pts=None,
        state=json.dumps(state),
        label_names=("person",),
        rows=[
            Row(frame, frame * 40, [0], [0.5], [0.0, 0.0, 1.0, 1.0])
            for frame in range(start, start + length)
            if frame not in lost
        ],
        gaps=[] if gap is None else [Gap(*gap, "damaged")],
        clear_budgets=clear,
    )
