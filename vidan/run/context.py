"""TODO: say what this module is for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from vidan.db.session import Database
from vidan.detection.cache import DetectorCache
from vidan.processes.slotboard import Call, SlotBoard


@dataclass(slots=True)
class RunContext:
    """What a worker gives to a run: its database, its detectors, its slot."""

    database: Database
    detectors: DetectorCache
    on_active: Callable[[], None]
    """Called before the first frame: sets the scenario `active`, or raises what came between."""
    on_progress: Callable[[], None] = lambda: None
    on_frames: Callable[[int], None] = lambda _: None
    board: SlotBoard | None = None
    slot: int = 0

    def limit(self, seconds: float) -> None:
        """Let the supervisor end the process if the run still goes on in so many seconds."""
        if self.board is not None:
            self.board.limit(self.slot, seconds)

    def guard(self, call: Call) -> AbstractContextManager[None]:
        """Run the stall clock of a call while the block lasts."""
        return nullcontext() if self.board is None else self.board.inside(self.slot, call)
