"""RunContext: what a worker lends to a run until the run ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from vidan.db.session import Database
from vidan.detection.cache import DetectorCache
from vidan.processes.slotboard import Call, SlotBoard


@dataclass(slots=True)
class RunContext:
    """What a worker lends to a run: its database, its detectors, and a slot on its board."""

    database: Database
    detectors: DetectorCache
    on_active: Callable[[], None]
    """Called before the first frame: sets the scenario `active`, or raises why that is refused."""
    on_progress: Callable[[], None] = lambda: None
    """Called once, when a commit has stored the run's progress: see `Committer`."""
    on_frames: Callable[[int], None] = lambda _: None
    """Called with the number of frames of each batch that the task has finished."""
    board: SlotBoard | None = None
    slot: int = 0

    def set_hard_limit(self, seconds: float) -> None:
        """Let the supervisor end the process if the run has not ended in this many seconds."""
        if self.board is not None:
            self.board.limit(self.slot, seconds)

    def guard(self, call: Call) -> AbstractContextManager[None]:
        """Run the stall clock of a call while the block lasts."""
        return nullcontext() if self.board is None else self.board.inside(self.slot, call)
