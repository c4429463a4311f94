"""Which errors of a run are retried, and when."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from vidan.domain import durations
from vidan.errors import InputRejected, VidanError

Errors = type[Exception] | Iterable[type[Exception]]
"""One type of exceptions, or several."""

MAX_DOUBLINGS = 64
"""Largest number of times that the pause between two tries is doubled, so that the float does not
overflow; the cap is reached long before."""


class Retry(VidanError):
    """Raised by a task that wants to be retried: `raise Retry("the camera restarts", after=30)`.

    It is charged to the budget of retries like an error; once the budget is spent, the scenario is
    `failed`. `after` is seconds or a timedelta; None waits as long as the task's back-off. Without
    a reason, and raised `from` an error, it takes the reason of that error.

    Raises InputRejected for an `after` out of range, which no retry fixes.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = (
            None if after is None else durations.seconds(after, "Retry: after", may_be_zero=True)
        )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A task's retries: after which errors, and after which pauses.

    The number of retries is the scenario's `max_attempts`. `backoff` is the first pause and `cap`
    the longest one, both in seconds.
    """

    retry_on: tuple[type[Exception], ...] = (Exception,)
    reject_on: tuple[type[Exception], ...] = ()
    backoff: float = 1.0
    cap: float = 300.0
    jitter: bool = True

    @classmethod
    def of(
        cls,
        retry_on: Errors = Exception,
        reject_on: Errors = (),
        backoff: float | timedelta = 1.0,
        cap: float | timedelta = 300.0,
        jitter: bool = True,
    ) -> RetryPolicy:
        """Return the policy that a task asks for. Raises InputRejected with the reason."""
        return cls(
            retry_on=_types(retry_on, "retry_on"),
            reject_on=_types(reject_on, "reject_on"),
            backoff=durations.seconds(backoff, "retry_backoff", may_be_zero=True),
            cap=durations.seconds(cap, "retry_backoff_max", may_be_zero=True),
            jitter=jitter,
        )

    def may_fix(self, error: BaseException) -> bool:
        """Tell whether a retry may fix an error; `reject_on` outweighs `retry_on`.

        A BaseException that is no Exception, such as SystemExit, is judged like a plain Exception.
        """
        if isinstance(error, Retry):
            return True
        kind = type(error) if isinstance(error, Exception) else Exception
        return issubclass(kind, self.retry_on) and not issubclass(kind, self.reject_on)

    def delay(self, attempts: int, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after an error that follows on `attempts` earlier errors.

        The pause doubles with each error up to the cap; jitter shortens it by up to a half.
        """
        full = min(self.cap, self.backoff * 2.0 ** min(attempts, MAX_DOUBLINGS))
        return full * (0.5 + chance() / 2) if self.jitter else full

    def delay_after(self, error: BaseException, attempts: int) -> float:
        """Return the seconds to wait after an error: its own `after`, otherwise `delay`."""
        if isinstance(error, Retry) and error.after is not None:
            return error.after
        return self.delay(attempts)


def _types(errors: Errors, name: str) -> tuple[type[Exception], ...]:
    found = tuple(errors) if isinstance(errors, Iterable) else (errors,)
    for one in found:
        if not (isinstance(one, type) and issubclass(one, Exception)):
            raise InputRejected(
                f"{name}: {one!r} is not an exception type", hint=f"such as {name}=(OSError,)"
            )
    return found
