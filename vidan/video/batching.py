"""Collects frames into batches, with the gaps between them."""

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
"""After this many frames that sampling left out, an empty batch moves the checkpoint."""

LIVE_WAIT_S = 0.035
"""Longest time, in seconds, that the first frame of a live source's batch waits for the others.

The batch then ends with the next frame; the detector fills it with frames of other cameras.
"""


@dataclass(slots=True)
class Batching:
    """Takes frames in display order; missing numbers become gaps.

    `expected` is the number of the next frame, `shape` the (H, W) of the pixels, `picture` the
    (height, width) of the source's displayed picture, `size` the number of frames in a batch.
    """

    expected: int
    shape: tuple[int, int]
    picture: tuple[int, int]
    size: int
    live: bool = False
    _entries: list[Entry] = field(default_factory=list)
    _gaps: list[Gap] = field(default_factory=list)
    _pixels: NDArray[np.uint8] | None = None
    _walked: int = 0
    _since: float = 0.0

    def arrive(self, entry: Entry, reason: str) -> NDArray[np.uint8] | None:
        """Add the next frame that could be decoded; frames skipped before it are a gap.

        Returns the array for its pixels, None if sampling leaves the frame out.
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
        """Record a gap from the expected frame up to `until`, exclusive."""
        if until > self.expected:
            self._gaps.append(Gap(self.expected, until - 1, reason))
            self.expected = until

    @property
    def begun(self) -> bool:
        """Whether a frame or a gap has been added since the last batch."""
        return bool(self._walked or self._gaps)

    @property
    def ready(self) -> bool:
        """Whether the batch should end here."""
        if self._pixels is None:
            return self._walked >= MAX_WALKED
        full = len(self._entries) >= self.size or self._walked >= self.size + MAX_WALKED
        return full or (self.live and time.monotonic() - self._since > LIVE_WAIT_S)

    def take(self, next_pts: int | None, next_restart: tuple[int, int] | None = None) -> FrameBatch:
        """Return the batch as it is and begin a new one."""
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
            next_restart=next_restart,
        )
        self._entries, self._gaps, self._pixels, self._walked = [], [], None, 0
        return batch
