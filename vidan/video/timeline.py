"""Frame numbers and times, derived from the timestamps of packets only.

A frame's number is the rank of its timestamp among the packets to be displayed, within a stretch of
ascending decode timestamps. A backward jump (two recordings joined) starts the next stretch, which
continues the count. A picture that can't be decoded keeps its number. Nothing here decodes.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from vidan.video.sampling import Sampling

REORDER = 32
"""Most packets by which decode order and display order differ (H.264 and H.265 allow 16)."""

MAX_TIME_MS = 2**53
"""Largest time of a frame, in milliseconds: the largest exact integer in JSON.

A damaged timestamp may claim more than the database's columns can hold.
"""

PASSED = -1
"""The number of all pictures before the first frame of a resumed run."""


@dataclass(slots=True, eq=False)
class Entry:
    """One picture to be displayed.

    The fields other than `pts` and `order` are set once no later packet can precede the picture.
    """

    pts: int
    order: int  # the rank of its packet in decode order
    number: int | None = None
    time_ms: int = 0
    wanted: bool = False
    seekable: bool = False  # whether its pts identifies the frame


class Timeline:
    """Takes packets in decode order and numbers their pictures in display order.

    `resume` is the (number, pts) of the frame at which a run resumes: pictures before it are
    PASSED. `start`, the pts of frame 0, is needed for that; otherwise it is found. `count` and
    `first_ms` are number and time of the first picture after a live source was interrupted.
    """

    def __init__(
        self,
        time_base: Fraction,
        sampling: Sampling,
        *,
        start: int | None = None,
        resume: tuple[int, int] | None = None,
        count: int = 0,
        first_ms: int = 0,
    ) -> None:
        self.time_base = time_base
        self.sampling = sampling
        self.upcoming: deque[Entry] = deque()  # numbered, in display order; the caller removes them
        self.count = resume[0] if resume else count  # the next number
        self._first_ticks = round(Fraction(first_ms, 1000) / time_base)
        self.stretch = 0
        self._resume_pts = resume[1] if resume else None
        self._pending: list[tuple[int, int, Entry]] = []  # a heap by (pts, order)
        self._orders = 0
        self._last_dts: int | None = None
        self._last_pts: int | None = None  # of the previous packet
        self._before: int | None = None  # pts of the previous picture, in display order
        self._ticks: int | None = None  # time of that picture since frame 0
        self._step = 1  # time between the last two pictures
        self._offset = -start if start is not None else None  # ticks = pts + offset
        self._fresh = False  # whether the next picture is the first of its stretch

    def add(self, pts: int | None, dts: int | None) -> Entry:
        """Add a packet with a picture to be displayed.

        A packet without a timestamp gets that of the previous packet.
        """
        if dts is not None:
            if self._last_dts is not None and dts < self._last_dts:
                self._next_stretch()
            self._last_dts = dts
        if pts is None:
            pts = self._last_pts if self._last_pts is not None else (dts or 0)
        self._last_pts = pts
        entry = Entry(pts, self._orders)
        self._orders += 1
        if self._resume_pts is not None and self.stretch == 0 and pts < self._resume_pts:
            self._pass(entry)
        else:
            heapq.heappush(self._pending, (pts, entry.order, entry))
        self._settle()
        return entry

    def decoded(self, entry: Entry) -> None:
        """Do nothing: numbers do not depend on what can be decoded."""

    def finish(self) -> None:
        """Number the remaining pictures: there are no more packets."""
        self._settle(everything=True)

    def _pass(self, entry: Entry) -> None:
        entry.number = PASSED
        if self._before is None or entry.pts > self._before:
            self._before = entry.pts
            assert self._offset is not None
            self._ticks = entry.pts + self._offset

    def _next_stretch(self) -> None:
        self._settle(everything=True)
        self.stretch += 1
        self._fresh = True
        self._last_pts = None

    def _settle(self, everything: bool = False) -> None:
        """Number the pictures that no later packet can precede.

        A picture is never displayed before its decode time.
        """
        while self._pending and (
            everything
            or len(self._pending) > REORDER
            or (self._last_dts is not None and self._pending[0][0] <= self._last_dts)
        ):
            self._number(heapq.heappop(self._pending)[2])

    def _number(self, entry: Entry) -> None:
        if self._offset is None:
            self._offset = self._first_ticks - entry.pts
        elif self._fresh and self._ticks is not None:
            # the stretch begins one frame after the last frame of the previous stretch
            self._offset = self._ticks + self._step - entry.pts
        tied = not self._fresh and self._before == entry.pts
        self._fresh = False
        ticks = entry.pts + self._offset
        if self._ticks is not None:
            ticks = max(ticks, self._ticks)
            self._step = max(1, ticks - self._ticks)
        entry.number = self.count
        entry.time_ms = min(round(ticks * self.time_base * 1000), MAX_TIME_MS)
        entry.wanted = self.sampling.wants(entry.number, ticks, self._ticks, self.time_base)
        entry.seekable = self.stretch == 0 and not tied
        self._before, self._ticks = entry.pts, ticks
        self.count += 1
        self.upcoming.append(entry)
