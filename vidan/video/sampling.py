"""Which frames of a source are stored: every n-th, or a number per second."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vidan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Chooses frames by `every` or by `fps`.

    `every` chooses the frames whose number is a multiple of it; `fps` chooses the first frame at or
    after each multiple of 1/fps seconds. Both depend on numbers and timestamps only, never on which
    frames could be decoded, so that a resumed run samples the same frames as an undisturbed one.
    """

    every: int = 1
    fps: Fraction | None = None

    @classmethod
    def of(cls, every: int = 1, fps: float | None = None) -> Sampling:
        """Return the sampling that a user asked for. Raises UsageError."""
        if every < 1:
            raise UsageError(
                f"every={every} is not a positive whole number",
                hint="every=10 takes every tenth frame",
            )
        if fps is None:
            return cls(every)
        if not 0 < fps < float("inf"):
            raise UsageError(
                f"fps={fps} is not a positive number", hint="fps=2 takes two frames per second"
            )
        if every != 1:
            raise UsageError("every and fps can't be given together", hint="leave one of them out")
        return cls(1, Fraction(str(fps)))  # the decimal as written: 0.1 is exactly a tenth

    def wants(self, number: int, ticks: int, before: int | None, time_base: Fraction) -> bool:
        """Whether the frame is chosen.

        `ticks` and `before` are the times of this frame and the previous one since frame 0, in
        units of `time_base` seconds; `before` is None for the first frame.
        """
        if self.fps is None:
            return number % self.every == 0
        if before is None:
            return True
        return self._slot(ticks, time_base) > self._slot(before, time_base)

    def _slot(self, ticks: int, time_base: Fraction) -> int:
        """Return how many multiples of 1/fps lie at or before that time.

        Containers round timestamps (1/30 s is 33 ms in a Matroska), so a time counts from half a
        tick earlier, at most half a millisecond.
        """
        assert self.fps is not None
        time = ticks * time_base + min(time_base / 2, Fraction(1, 2000))
        return int(time * self.fps // 1)
