"""Which frames of a source are wanted: every n-th, or so many a second."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vidan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """`every`: frames whose number is a multiple of it. `fps`: the first frame at or after each
    multiple of 1/fps s.

    Both look at numbers and timestamps alone, never at what could be decoded, so that a resumed run
    samples the frames that an undisturbed one does.
    """

    every: int = 1
    fps: Fraction | None = None

    @classmethod
    def of(cls, every: int = 1, fps: float | None = None) -> Sampling:
        """Checks what a user asked for. Raises UsageError."""
        if every < 1:
            raise UsageError(
                f"every={every} is not a positive whole number",
                hint="every=10 takes each tenth frame",
            )
        if fps is None:
            return cls(every)
        if not 0 < fps < float("inf"):
            raise UsageError(
                f"fps={fps} is not a positive number", hint="fps=2 takes two frames a second"
            )
        if every != 1:
            raise UsageError("every and fps can't be given together", hint="leave one of them out")
        return cls(1, Fraction(str(fps)))  # as it was written: 0.1 is a tenth

    def wants(self, number: int, ticks: int, before: int | None, time_base: Fraction) -> bool:
        """`ticks`, `before`: this frame's and the previous one's time since frame 0, in units of
        `time_base` seconds.
        """
        if self.fps is None:
            return number % self.every == 0
        if before is None:
            return True
        return self._slot(ticks, time_base) > self._slot(before, time_base)

    def _slot(self, ticks: int, time_base: Fraction) -> int:
        """How many multiples of 1/fps lie at or before that time.

        Containers round timestamps (1/30 s is 33 ms in a Matroska): half a tick, at most half a
        millisecond, counts as arrived.
        """
        assert self.fps is not None
        time = ticks * time_base + min(time_base / 2, Fraction(1, 2000))
        return int(time * self.fps // 1)
