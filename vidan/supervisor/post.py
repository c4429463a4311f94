"""TODO: say what this module is for."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from vidan.domain.worker import WorkerOptions
from vidan.processes.lifeline import Child
from vidan.processes.slotboard import SlotBoard


@dataclass(frozen=True, slots=True)
class EndedFor:
    """The scenario that a process was ended for, and why."""

    scenario_id: int
    cause: str


@dataclass(slots=True)
class Post:
    """A place for a worker process: its options, and who fills it now."""

    options: WorkerOptions
    child: Child | None = None
    board: SlotBoard | None = None
    asked: bool = False  # the child has been asked to end
    ended_for: EndedFor | None = None  # the child has been killed for it
    started: float = 0.0
    deaths: int = 0  # in a row, each soon after its start
    given_up: bool = False  # the last ones could not even register
    not_before: float = 0.0
    former: UUID | None = None  # the last registration of the process before
    retired: bool = False  # its worker was drained or stopped
    slots: int = 0  # how many the process before had at last

    @property
    def hopeless(self) -> bool:
        """Whether it was given up, and who fills it now has not registered either."""
        return self.given_up and (self.board is None or self.board.worker_id is None)

    def count(self) -> int:
        """Return how many slots its worker has: as it was scaled, else as it was started."""
        before = self.slots or self.options.slots
        if self.board is None or self.board.worker_id is None:
            return before  # a new process learns of its number when it registers
        return self.board.in_use or before


@dataclass(slots=True)
class Release:
    """A lease to be given up for a process that was reaped, and whom to charge."""

    post: Post
    worker_id: UUID
    executing: list[int]
    cause: str
