"""What a run has lost of its source, told in the worker's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from vidan.domain.detection import Gap

log = logging.getLogger("vidan.runner")

PAUSE_SECONDS = 60.0
"""Shortest time, in seconds, between two warnings of a run: a camera may lose frames for ever."""

NAMED = 5
"""Most gaps that a warning names."""


class Losses:
    """Warns of lost frames: of the first at once, then of all that were lost since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: float | None = None
        self._frames = 0  # lost since the last warning, in so many gaps, of which some are named
        self._gaps = 0
        self._named: list[str] = []
        self._noted = 0  # how many notes about the source were told

    def add(self, gaps: Iterable[Gap]) -> None:
        """Take the gaps of a batch that the task has done with."""
        for gap in gaps:
            self._frames += gap.to_frame - gap.from_frame + 1
            self._gaps += 1
            if len(self._named) < NAMED:
                self._named.append(_name(gap))
        if self._told_at is None or self._clock() - self._told_at >= PAUSE_SECONDS:
            self.tell()

    def note(self, notes: Sequence[str]) -> None:
        """Warn of what was noticed about the source since the last call; `notes` are all so far."""
        for text in notes[self._noted :]:
            log.warning("%s", text)
        self._noted = len(notes)

    def tell(self) -> None:
        """Warn of what was lost since the last warning, if anything."""
        if not self._gaps:
            return
        more = self._gaps - len(self._named)
        log.warning(
            "lost %d frame%s: %s%s",
            self._frames,
            "" if self._frames == 1 else "s",
            ", ".join(self._named),
            f", and {more} more gaps" if more else "",
        )
        self._told_at = self._clock()
        self._frames = self._gaps = 0
        self._named = []


def _name(gap: Gap) -> str:
    frames = str(gap.from_frame)
    if gap.to_frame > gap.from_frame:
        frames += f" to {gap.to_frame}"
    return f"{frames} ({gap.reason})"
