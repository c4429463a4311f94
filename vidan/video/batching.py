"""Putting frames together into batches, with the gaps between them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vidan.domain.detection import Gap
from vidan.video.frames import FrameBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidan.video.timeline import Entry

MAX_WALKED = 500
"""So many frames that were not wanted, and an empty batch moves the checkpoint."""

LIVE_WAIT_S = 0.035
"""So long the first frame of a live source's batch waits for the others, then goes with the next.

The detector fills its batches with those of other cameras.
"""


@dataclass(slots=True)
class Batching:
    """Frames come in the order of showing; what is missing between them becomes gaps.

    `expected`: the frame to come. `shape`: (H, W) of the pixels. `size`: frames a batch.
    """

    expected: int
    shape: tuple[int, int]
    picture: tuple[int, int]  # (height, width) of the source as shown
    size: int
    live: bool = False
    _entries: list[Entry] = field(default_factory=list)
    _gaps: list[Gap] = field(default_factory=list)
    _pixels: NDArray[np.uint8] | None = None
    _walked: int = 0
    _since: float = 0.0

    def arrive(self, entry: Entry, reason: str) -> NDArray[np.uint8] | None:
        """The next frame that could be had. Returns where its pixels belong, None if they are not
        wanted.
        """
        assert entry.number is not None
        self.lose(entry.number, reason)
        self.expected = entry.number + 1
        self._walked += 1
        if not entry.wanted:
            return None
        if self._pixels is None:
            self._pixels = np.empty((self.size, *self.shape, 3), np.uint8)
            self._since = time.monotonic()
        self._entries.append(entry)
        place: NDArray[np.uint8] = self._pixels[len(self._entries) - 1]
        return place

    def lose(self, until: int, reason: str) -> None:
        """All frames from the expected one up to `until`, without it, could not be had."""
        if until > self.expected:
            self._gaps.append(Gap(self.expected, until - 1, reason))
            self.expected = until

    @property
    def begun(self) -> bool:
        """Whether there is anything to tell since the last batch."""
        return bool(self._walked or self._gaps)

    @property
    def ready(self) -> bool:
        if self._pixels is None:
            return self._walked >= MAX_WALKED
        full = len(self._entries) >= self.size or self._walked >= self.size + MAX_WALKED
        return full or (self.live and time.monotonic() - self._since > LIVE_WAIT_S)

    def take(self, next_pts: int | None) -> FrameBatch:
        """The batch as it stands; a new one begins."""
        entries, pixels = self._entries, self._pixels
        batch = FrameBatch(
            indices=np.array([entry.number for entry in entries], np.int64),
            times=np.array([entry.time_ms for entry in entries], np.int64),
            pixels=np.empty((0, *self.shape, 3), np.uint8)
            if pixels is None
            else pixels[: len(entries)],
            height=self.picture[0],
            width=self.picture[1],
            gaps=tuple(self._gaps),
            next_frame=self.expected,
            next_pts=next_pts,
        )
        self._entries, self._gaps, self._pixels, self._walked = [], [], None, 0
        return batch
