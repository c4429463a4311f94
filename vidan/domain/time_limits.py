"""How long one run of a scenario may take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from vidan.domain import durations
from vidan.domain.durations import in_words
from vidan.errors import InputRejected


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds of one run, None for no limit.

    At `soft` the task's code is told by TimeLimitExceeded; at `hard` the supervisor ends its
    process.
    """

    hard: float | None = None
    soft: float | None = None

    @classmethod
    def of(
        cls, hard: float | timedelta | None = None, soft: float | timedelta | None = None
    ) -> TimeLimits:
        """Return the limits that are asked for. Raises InputRejected that says what is wrong."""
        limits = cls(
            hard=None if hard is None else durations.seconds(hard, "time_limit"),
            soft=None if soft is None else durations.seconds(soft, "soft_time_limit"),
        )
        limits.check()
        return limits

    def outweighed_by(self, hard: float | None, soft: float | None) -> TimeLimits:
        """Return a run's limits: its scenario's own, where it has them, outweigh its task's."""
        if hard is None and soft is None:
            return self
        return TimeLimits(
            hard=self.hard if hard is None else hard, soft=self.soft if soft is None else soft
        )

    def check(self) -> None:
        """Raise InputRejected for a soft limit that would never come."""
        if self.hard is not None and self.soft is not None and self.soft >= self.hard:
            raise InputRejected(
                f"the soft_time_limit ({in_words(self.soft)}) is not below the time_limit"
                f" ({in_words(self.hard)})",
                hint="give both, the soft one the shorter",
            )
