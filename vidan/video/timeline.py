"""The places in which pictures are shown, with their times, derived from packets only.

Place n belongs to the n-th smallest timestamp among the packets to be displayed, within a stretch
of ascending decode timestamps. A backward jump (two recordings joined) starts the next stretch,
which continues the count. Nothing here decodes: `vidan.video.counting` decides which picture is
shown at which place, since a container may keep timestamps that say nothing about that.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
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
"""The number of all places before the first frame of a resumed run."""


@dataclass(slots=True, eq=False)
class Entry:
    """One picture to be displayed, and the place that its timestamp has among all others.

    The fields `number` to `seekable` tell the place; they are set once no later packet can come
    before it. The last fields belong to the picture in the decoder.
    """

    pts: int
    order: int  # the rank of its packet in decode order
    number: int | None = None
    time_ms: int = 0
    wanted: bool = False
    seekable: bool = False  # whether its pts identifies the frame
    stretch: int = 0
    ordinal: int = -1  # how many packets of the source come before its packet; -1: not known
    key: bool = False  # whether it is a key frame
    group: int = 0  # how many key frames came before it in decode order, itself included
    leads: bool = False  # whether the decoder lacks what came before it
    left: bool = False  # whether it left the decoder
    done: bool = False  # whether nothing more is to be done with it: given, lost or not needed

    @property
    def rank(self) -> tuple[int, int, int]:
        """Orders pictures by their timestamps."""
        return self.stretch, self.pts, self.order


class Timeline:
    """Takes packets in decode order and numbers the places of their pictures.

    `resume` is the (number, pts) of the frame at which a run resumes: places before it are PASSED.
    `start`, the pts of frame 0, is needed for that; otherwise it is found. `count` and `first_ms`
    are number and time of the first place after a live source was interrupted.
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
        self.upcoming: deque[Entry] = deque()  # numbered, in display order; see `place`
        self.count = resume[0] if resume else count  # the next number
        self._first_ticks = round(Fraction(first_ms, 1000) / time_base)
        self.stretch = 0
        self.lacks: Callable[[Fraction, Fraction], bool] | None = None
        """Whether the reader noted that data is lost between two times, in seconds."""
        self.holes: list[range] = []  # the numbers of places that were in lost data
        self._resume_pts = resume[1] if resume else None
        self._first = self.count
        self._passed = 0
        self._groups = 0
        self._pending: list[tuple[int, int, Entry]] = []  # a heap by (pts, order)
        self._orders = 0
        self._last_dts: int | None = None
        self._last_pts: int | None = None  # of the previous packet
        self._latest: int | None = None  # the largest of the stretch
        self._before: int | None = None  # pts of the previous picture, in display order
        self._ticks: int | None = None  # time of that picture since frame 0
        self._step = 1  # time between the last two pictures
        self._usual = 0  # the shortest time between two pictures so far
        self._offset = -start if start is not None else None  # ticks = pts + offset
        self._fresh = False  # whether the next picture is the first of its stretch

    def add(
        self, pts: int | None, dts: int | None, *, key: bool = False, ordinal: int = -1
    ) -> Entry:
        """Add a packet with a picture to be displayed.

        A packet without a timestamp gets that of the previous packet. `key`: it is a key frame.
        `ordinal`: how many packets of the source come before it; -1: not known.
        """
        self.see(pts, dts)
        if pts is None:
            pts = self._last_pts if self._last_pts is not None else (dts or 0)
        self._last_pts = pts
        self._groups += key
        entry = Entry(pts, self._orders, stretch=self.stretch, ordinal=ordinal, key=key)
        entry.group = self._groups
        self._orders += 1
        if self._resume_pts is not None and self.stretch == 0 and pts < self._resume_pts:
            self._pass(entry)
        else:
            heapq.heappush(self._pending, (pts, entry.order, entry))
        self._settle()
        return entry

    def see(self, pts: int | None, dts: int | None) -> None:
        """Note the timestamps of a packet, also of one that is not displayed."""
        if dts is not None:
            dts = dts if pts is None else min(pts, dts)  # FFmpeg guesses some beside damage
            if self._last_dts is None or dts >= self._last_dts:
                self._last_dts = dts
            elif pts is None or self._latest is None or pts < self._latest:
                self._next_stretch()
                self._last_dts = dts
        if pts is not None:
            self._latest = pts if self._latest is None else max(pts, self._latest)

    def place(self, number: int) -> Entry | None:
        """Return the place with that number, None if it is not known yet. Forgets those before."""
        while self.upcoming and (self.upcoming[0].number or 0) < number:
            self.upcoming.popleft()
        first = self.upcoming[0] if self.upcoming else None
        return first if first is not None and first.number == number else None

    def index(self, entry: Entry) -> int:
        """Return how many pictures of the source come before this one in decode order.

        For a run that resumed by seeking, all packets before its first frame must have been added.
        """
        return self._first - self._passed + entry.order + sum(map(len, self.holes))

    def in_hole(self, number: int) -> bool:
        """Whether a place was in data that the reader noted as lost."""
        return any(number in hole for hole in self.holes)

    def finish(self) -> None:
        """Number the remaining pictures: there are no more packets."""
        self._settle(everything=True)

    def _pass(self, entry: Entry) -> None:
        entry.number = PASSED
        self._passed += 1
        if self._before is None or entry.pts > self._before:
            self._before = entry.pts
            assert self._offset is not None
            self._ticks = entry.pts + self._offset

    def _next_stretch(self) -> None:
        self._settle(everything=True)
        self.stretch += 1
        self._fresh = True
        self._last_pts = self._latest = None

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
            self._pass_hole(self._ticks, ticks)
            self._step = max(1, ticks - self._ticks)
        entry.number = self.count
        entry.time_ms = min(round(ticks * self.time_base * 1000), MAX_TIME_MS)
        entry.wanted = self.sampling.wants(entry.number, ticks, self._ticks, self.time_base)
        entry.seekable = self.stretch == 0 and not tied
        self._before, self._ticks = entry.pts, ticks
        self.count += 1
        self.upcoming.append(entry)

    def _pass_hole(self, before: int, ticks: int) -> None:
        """Count the places in lost data: as many as steps are missing."""
        missing = round((ticks - before) / self._usual) - 1 if self._usual else 0
        if self.lacks is None or missing < 1:
            self._usual = min(self._usual or ticks - before, ticks - before) or self._usual
            return
        if self.lacks(before * self.time_base, ticks * self.time_base):
            self.holes.append(range(self.count, self.count + missing))
            self.count += missing
