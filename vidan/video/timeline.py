"""Frame numbers and times, from the timestamps of packets alone.

A frame's number is the rank of its timestamp among those of the packets that are to be shown,
within a stretch of rising decode timestamps; a backward jump (two recordings put together) starts
the next stretch, which counts on. What can't be decoded has its number all the same. Nothing here
decodes.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from vidan.video.sampling import Sampling

REORDER = 32
"""A picture is shown at most so many packets after the place its timestamp has (H.264 and H.265
allow 16).
"""

MAX_TIME_MS = 2**53
"""Timestamps may claim more than any column holds; JSON's numbers end here."""

PASSED = -1
"""The number of a picture that lies before the frame from which a resumed run goes on."""


@dataclass(slots=True, eq=False)
class Entry:
    """One picture to be shown. All but `pts` and `order` is known once no later packet can come
    before it.
    """

    pts: int
    order: int  # of its packet, in the order of decoding
    number: int | None = None
    time_ms: int = 0
    wanted: bool = False
    seekable: bool = False  # its pts alone tells which frame it is


class Timeline:
    """Takes packets in decode order, gives numbers in the order of showing.

    `resume`: (number, pts) of the frame from which to go on; pictures before it are PASSED.
    `start`: the pts of frame 0, needed then; otherwise found. `count`, `first_ms`: number and time
    of the first picture where a live source is taken up again.
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
        self.upcoming: deque[Entry] = deque()  # numbered, in order; the user takes them off
        self.count = resume[0] if resume else count  # the next number to give
        self._first_ticks = round(Fraction(first_ms, 1000) / time_base)
        self.stretch = 0
        self._resume_pts = resume[1] if resume else None
        self._pending: list[tuple[int, int, Entry]] = []  # a heap by (pts, order)
        self._orders = 0
        self._last_dts: int | None = None
        self._last_pts: int | None = None  # of the packet before
        self._before: int | None = None  # pts of the picture before, in the order of showing
        self._ticks: int | None = None  # its time since frame 0
        self._step = 1  # between the last two pictures
        self._offset = -start if start is not None else None  # ticks = pts + offset
        self._fresh = False  # the next picture is its stretch's first

    def add(self, pts: int | None, dts: int | None) -> Entry:
        """A packet with a picture that is to be shown; one without a timestamp has that of the
        packet before.
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
        """What could be decoded changes no number."""

    def finish(self) -> None:
        """No packet comes any more."""
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
        """Number what no later packet can come before: a packet is never shown before its decode
        time.
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
        elif (
            self._fresh and self._ticks is not None
        ):  # time goes on one frame after the last stretch
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
