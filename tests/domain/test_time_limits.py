"""How long a run may take, and how that is said."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from vidan.domain.durations import in_words
from vidan.domain.time_limits import TimeLimits
from vidan.errors import InputRejected, RunStopped, TimeLimitExceeded
from vidan.run.control import RunControl
from vidan.run.run import Run
from vidan.tasks.app import Vidan


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (7_200, "2 h"),
        (90, "1 min 30 s"),
        (0.5, "0.5 s"),
        (86_400, "1 d"),
        (3_660, "1 h 1 min"),
        (0, "0 s"),
        (1.25, "1.25 s"),
        (0.0001, "0.0001 s"),
        (59.9999, "1 min"),
        (3_599.99999, "1 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_scenarios_own_limit_outweighs_its_tasks() -> None:
    task = TimeLimits.of(timedelta(hours=2), 3_600)
    assert task.outweighed_by(None, None) == TimeLimits(7_200, 3_600)
    assert task.outweighed_by(8_000, None) == TimeLimits(8_000, 3_600)
    assert task.outweighed_by(None, 5) == TimeLimits(7_200, 5)


def test_a_soft_limit_that_would_never_come_is_refused() -> None:
    with pytest.raises(InputRejected, match=r"\(1 h\) is not below the time_limit \(1 min\)"):
        TimeLimits.of(60, 3_600)
    TimeLimits.of(None, 3_600)


def limited(run: Run) -> None: ...


def test_a_tasks_limits_are_published_with_it() -> None:
    app = Vidan()
    app.task(name="t", time_limit=timedelta(minutes=2), soft_time_limit=90)(limited)
    spec = app.tasks["t"].spec
    assert (spec.time_limit, spec.soft_time_limit) == (120, 90)


def test_the_soft_limit_is_told_once() -> None:
    control = RunControl()
    control.check_time()
    control.set_soft_limit(0.01)
    time.sleep(0.02)
    control.check()  # nothing ends the run
    with pytest.raises(TimeLimitExceeded, match=r"soft time limit of 0.01 s"):
        control.check_time()
    control.check_time()
    control.check_left_off()  # what the task returns is its result


def test_an_interruption_comes_before_the_soft_limit() -> None:
    control = RunControl()
    control.set_soft_limit(1e-9)
    time.sleep(0.001)
    control.interrupt(RunStopped("stop"))
    with pytest.raises(RunStopped):
        control.check_time()
