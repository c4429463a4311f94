"""Frame numbers where packets carry no timestamps: pictures are counted as they are decoded."""

from __future__ import annotations

from collections import deque
from fractions import Fraction

from vidan.video.sampling import Sampling
from vidan.video.timeline import Entry


class Count:
    """The timeline of a source without timestamps, such as a raw .264. Times follow from its frame
    rate.
    """

    def __init__(self, rate: Fraction, sampling: Sampling) -> None:
        self.upcoming: deque[Entry] = deque()  # of what is not decoded yet nothing is known
        self.count = 0
        self._step = 1 / rate
        self._sampling = sampling
        self._orders = 0

    def add(self, _pts: int | None, _dts: int | None) -> Entry:
        """A packet with a picture: its number comes when it is decoded."""
        self._orders += 1
        return Entry(0, self._orders)

    def decoded(self, entry: Entry) -> None:
        """The next picture has come out of the decoder."""
        number = self.count
        self.count += 1
        entry.number = number
        entry.time_ms = round(number * self._step * 1000)
        entry.wanted = self._sampling.wants(
            number, number, number - 1 if number else None, self._step
        )

    def finish(self) -> None:
        """Nothing is left open."""
