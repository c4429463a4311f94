"""How long one run of a scenario may take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from vidan.domain import durations
from vidan.domain.durations import in_words
from vidan.errors import InputRejected


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits of one run, in seconds; None is no limit.

    At `soft` TimeLimitExceeded is raised in the task's code; at `hard` the supervisor ends the
    worker process.
    """

    hard: float | None = None
    soft: float | None = None

    @classmethod
    def of(
        cls, hard: float | timedelta | None = None, soft: float | timedelta | None = None
    ) -> TimeLimits:
        """Return the limits that a user asks for. Raises InputRejected with the reason."""
        limits = cls(
            hard=None if hard is None else durations.seconds(hard, "time_limit"),
            soft=None if soft is None else durations.seconds(soft, "soft_time_limit"),
        )
        limits.check()
        return limits

    def outweighed_by(self, hard: float | None, soft: float | None) -> TimeLimits:
        """Return a run's limits: the scenario's limits replace those of its task."""
        if hard is None and soft is None:
            return self
        return TimeLimits(
            hard=self.hard if hard is None else hard, soft=self.soft if soft is None else soft
        )

    def check(self) -> None:
        """Raise InputRejected for a soft limit that the hard limit would always precede."""
        if self.hard is not None and self.soft is not None and self.soft >= self.hard:
            raise InputRejected(
                f"the soft_time_limit ({in_words(self.soft)}) is not below the time_limit"
                f" ({in_words(self.hard)})",
                hint="give both, the soft one the shorter",
            )
