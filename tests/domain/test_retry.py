"""Which errors are tried again, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from vidan.domain.retry import Retry, RetryPolicy
from vidan.errors import InputRejected, VidanError
from vidan.tasks.app import Vidan
from vidan.worker.execution import _outcome_of


def test_the_pause_doubles_up_to_its_cap() -> None:
    policy = RetryPolicy.of(backoff=2, cap=timedelta(seconds=30), jitter=False)
    assert [policy.delay(attempts) for attempts in range(6)] == [2, 4, 8, 16, 30, 30]
    assert policy.delay(2**31) == 30


def test_jitter_takes_up_to_a_half() -> None:
    policy = RetryPolicy()
    assert policy.delay(3, chance=lambda: 0.0) == 4
    assert policy.delay(3, chance=lambda: 1.0) == 8
    assert 150 <= policy.delay(20) <= 300


def test_without_a_back_off_it_is_at_once() -> None:
    assert RetryPolicy.of(backoff=0).delay(5) == 0


def test_by_default_every_error_is_tried_again() -> None:
    policy = RetryPolicy()
    for error in (ValueError(), MemoryError(), SystemExit(1), Retry()):
        assert policy.may_fix(error)


def test_only_some_errors_are_tried_again() -> None:
    policy = RetryPolicy.of(retry_on=OSError, reject_on=[FileNotFoundError])
    assert policy.may_fix(ConnectionResetError())  # an OSError
    assert not policy.may_fix(FileNotFoundError())
    assert not policy.may_fix(ValueError())
    assert not policy.may_fix(SystemExit())
    assert policy.may_fix(Retry())


def test_an_error_of_our_own_is_told_in_its_words() -> None:
    def told(error: BaseException) -> str | None:
        return _outcome_of(error, cast(Any, None), RetryPolicy(), 0).error

    assert told(VidanError("no weights", hint="give a file")) == "no weights; give a file"
    assert told(VidanError("no weights")) == "no weights"
    assert told(ValueError("x")) == "ValueError: x"


def test_a_retry_says_itself_when() -> None:
    policy = RetryPolicy.of(backoff=1, jitter=False)
    assert policy.delay_after(Retry(after=timedelta(minutes=2)), 0) == 120
    assert policy.delay_after(Retry(after=0), 7) == 0
    assert policy.delay_after(Retry("later"), 3) == 8
    assert policy.delay_after(ValueError(), 3) == 8


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta.max, "5", True])
def test_a_retry_has_its_range(after: Any) -> None:
    with pytest.raises(InputRejected, match="after"):
        Retry(after=after)


@pytest.mark.parametrize(
    "wrong",
    [
        {"retry_on": (int,)},
        {"retry_on": ("OSError",)},
        {"reject_on": KeyboardInterrupt},
        {"retry_backoff": -1},
        {"retry_backoff_max": timedelta(days=-1)},
        {"time_limit": 0},
        {"soft_time_limit": -3},
        {"time_limit": "1h"},
        {"time_limit": timedelta(seconds=5), "soft_time_limit": 5},
    ],
    ids=str,
)
def test_what_a_task_asks_for_is_checked_when_it_is_registered(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputRejected, match=next(reversed(wrong))) as refused:
        Vidan().task(**wrong)
    assert refused.value.hint
