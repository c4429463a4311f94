"""Frame numbers for packets without timestamps: pictures are counted as they are decoded."""

from __future__ import annotations

from collections import deque
from fractions import Fraction

from vidan.video.sampling import Sampling
from vidan.video.timeline import Entry


class Count:
    """The timeline of a source without timestamps, such as a raw .264.

    The times of its frames follow from the frame rate.
    """

    def __init__(self, rate: Fraction, sampling: Sampling) -> None:
        self.upcoming: deque[Entry] = (
            deque()
        )  # always empty: nothing is known about pictures before they are decoded
        self.count = 0
        self._step = 1 / rate
        self._sampling = sampling
        self._orders = 0

    def add(self, _pts: int | None, _dts: int | None) -> Entry:
        """Add a packet with a picture, which gets its number when it is decoded."""
        self._orders += 1
        return Entry(0, self._orders)

    def decoded(self, entry: Entry) -> None:
        """Number the picture that the decoder has returned."""
        number = self.count
        self.count += 1
        entry.number = number
        entry.time_ms = round(number * self._step * 1000)
        entry.wanted = self._sampling.wants(
            number, number, number - 1 if number else None, self._step
        )

    def finish(self) -> None:
        """Do nothing: every decoded picture has its number."""
