"""The worker's log tells what a run has lost."""

from __future__ import annotations

import logging

import pytest

from vidan.domain.detection import Gap
from vidan.run.losses import NAMED, PAUSE_SECONDS, Losses


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_the_first_loss_is_told_at_once_and_the_others_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    losses = Losses(clock)
    losses.add([Gap(3, 3, "damaged")])
    assert said(caplog) == ["lost 1 frame: 3 (damaged)"]
    losses.add([Gap(10, 12, "damaged")])
    clock.now += PAUSE_SECONDS - 1
    losses.add([Gap(20, 20, "damaged")])
    assert len(said(caplog)) == 1
    clock.now += 1
    losses.add([Gap(30, 39, "cut off")])
    assert said(caplog)[1:] == [
        "lost 14 frames: 10 to 12 (damaged), 20 (damaged), 30 to 39 (cut off)"
    ]


def test_the_end_of_a_run_tells_the_rest_once(caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses(Clock())
    losses.tell()
    assert said(caplog) == []
    losses.add([Gap(0, 0, "damaged")])
    losses.add([Gap(2 * n, 2 * n, "damaged") for n in range(1, NAMED + 4)])
    losses.tell()
    losses.tell()
    assert len(said(caplog)) == 2
    assert said(caplog)[1].startswith(f"lost {NAMED + 3} frames: 2 (damaged), 4 (damaged)")
    assert said(caplog)[1].endswith(", and 3 more gaps")
