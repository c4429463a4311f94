"""TODO: say what this module is for."""

from __future__ import annotations

import threading
import time

from vidan.domain.durations import in_words
from vidan.errors import (
    CommitFailed,
    LeaseLost,
    RunInterrupted,
    TimeLimitExceeded,
)


class RunControl:
    """What tells a run, from any thread, that it has to end. A lost lease outweighs the rest.

    The soft time limit is told by it too, but once, and the run may go on.
    """

    def __init__(self) -> None:
        self._time_is_up: float | None = None  # by the monotonic clock
        self._soft_limit = 0.0
        self._interruption: RunInterrupted | None = None
        self._lock = threading.Lock()
        self._told = False

    def interrupt(self, interruption: RunInterrupted) -> None:
        """Ask the run to end at its next step; the first reason stands, but for a lost lease."""
        with self._lock:
            if self._interruption is None or isinstance(interruption, LeaseLost | CommitFailed):
                self._interruption = interruption

    @property
    def interruption(self) -> RunInterrupted | None:
        """Why the run has to end, None while it may go on."""
        return self._interruption

    def check(self) -> None:
        """Raise what the run was interrupted with, if anything."""
        if self._interruption is not None:
            self._told = True
            raise self._interruption

    def limit(self, seconds: float) -> None:
        """Let the time of the run, by its soft limit, be up in so many seconds."""
        self._soft_limit = seconds
        self._time_is_up = time.monotonic() + seconds

    def check_time(self) -> None:
        """Raise what `check` raises, and TimeLimitExceeded once the run's time is up.

        Called where the task waits for something and its code can be told.
        """
        self.check()
        if self._time_is_up is not None and time.monotonic() > self._time_is_up:
            self._time_is_up = None
            raise TimeLimitExceeded(f"over its soft time limit of {in_words(self._soft_limit)}")

    def ask(self) -> bool:
        """Tell the task's code whether the run has to end."""
        self._told = self._told or self._interruption is not None
        return self._told

    def check_told(self) -> None:
        """Raise the interruption that the task was told of, though it returned all the same.

        What it returned is no result then: it left off, or it swallowed the exception.
        """
        if self._told:
            self.check()
