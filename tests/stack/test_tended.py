from __future__ import annotations

import itertools

import pytest

from vidan.errors import VidanError
from vidan.stack import tended
from vidan.stack.tended import Tended


class Fragile:
    """A service that ends when the test says so."""

    def __init__(self) -> None:
        self.starts = 0
        self.runs = False
        self.refuses = False

    @property
    def pid(self) -> int | None:
        return self.starts

    def start(self) -> None:
        if self.refuses:
            raise VidanError("no")
        self.starts += 1
        self.runs = True

    def poll(self) -> int | None:
        return None if self.runs else -9

    def stop(self) -> None:
        self.runs = False


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(tended, "time", one)
    return one


def test_what_ran_steadily_is_started_again_at_once(clock: Clock) -> None:
    process = Fragile()
    service = Tended("broker", process)
    service.tend()
    assert service.pid == 1
    clock.now += tended.STEADY_SECONDS + 1
    service.tend()
    process.runs = False
    assert service.pid is None
    service.tend()
    assert process.starts == 2
    assert service.trouble() is None


@pytest.mark.parametrize("refuses", [False, True])
def test_what_does_not_stay_up_is_started_ever_less_often(clock: Clock, refuses: bool) -> None:
    process = Fragile()
    service = Tended("broker", process)
    process.refuses = refuses
    tries = []
    for _ in range(400):
        before = service._failures if refuses else process.starts
        service.tend()
        if (service._failures if refuses else process.starts) != before:
            tries.append(clock.now)
        process.runs = False
        clock.now += 0.05
    waits = [later - sooner for sooner, later in itertools.pairwise(tries)]
    assert waits[0] < 0.3
    assert max(waits) <= tended.LONGEST_DELAY + 0.15
    assert waits[-1] > 3
    trouble = service.trouble()
    assert trouble is not None
    assert "broker" in trouble

    process.refuses = False
    service.stop()
    service.tend()
    assert process.poll() is None
    assert service.trouble() is None
