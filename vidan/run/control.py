"""RunControl: how other threads tell a run that it has to end."""

from __future__ import annotations

import os
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
    """Tells a run, from any thread, that it has to end. A lost lease outweighs other reasons.

    It also raises TimeLimitExceeded, once, after the soft time limit; the run may continue then.
    """

    def __init__(self) -> None:
        self._soft_deadline: float | None = None  # on the monotonic clock
        self._soft_limit = 0.0
        self._interruption: RunInterrupted | None = None
        self._lock = threading.Lock()
        self._task_was_told = False
        self._process = os.getpid()

    def interrupt(self, interruption: RunInterrupted) -> None:
        """Ask the run to end at its next step.

        The first reason stands, but a lost lease or a failed commit replaces it.
        """
        with self._lock:
            if self._interruption is None or isinstance(interruption, LeaseLost | CommitFailed):
                self._interruption = interruption

    @property
    def interruption(self) -> RunInterrupted | None:
        """Why the run has to end; None while it may continue."""
        return self._interruption

    def check(self) -> None:
        """Raise the interruption if the run has to end, and RuntimeError in a forked child."""
        self.check_process()
        if self._interruption is not None:
            self._task_was_told = True
            raise self._interruption

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child, which has neither threads nor connections."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "a run belongs to the process of its worker: a forked child can't use it,"
                " so let the child return what it has found"
            )

    def set_soft_limit(self, seconds: float) -> None:
        """Set the run's soft time limit, in seconds from now."""
        self._soft_limit = seconds
        self._soft_deadline = time.monotonic() + seconds

    def check_time(self) -> None:
        """Raise what `check` raises, and TimeLimitExceeded once the soft time limit is over.

        Called where the task waits, so that its code can catch the error.
        """
        self.check()
        if self._soft_deadline is not None and time.monotonic() > self._soft_deadline:
            self._soft_deadline = None
            raise TimeLimitExceeded(f"over its soft time limit of {in_words(self._soft_limit)}")

    def stop_requested(self) -> bool:
        """Tell the task's code whether the run has to end, and remember that it was told."""
        self._task_was_told = self._task_was_told or self._interruption is not None
        return self._task_was_told

    def check_left_off(self) -> None:
        """Raise the interruption if the task knew of it and returned all the same.

        Its return value is no result then: the task left off, or it swallowed the exception.
        """
        if self._task_was_told:
            self.check()
