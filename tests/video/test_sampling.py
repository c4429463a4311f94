"""Which frames sampling chooses."""

from __future__ import annotations

from fractions import Fraction

import pytest

from vidan.errors import UsageError
from vidan.video.sampling import Sampling


def sampled(sampling: Sampling, times: list[int], base: Fraction = Fraction(1, 1000)) -> list[int]:
    before = [None, *times[:-1]]
    return [n for n, t in enumerate(times) if sampling.wants(n, t, before[n], base)]


def test_every() -> None:
    assert sampled(Sampling.of(every=4), list(range(10))) == [0, 4, 8]


def test_fps_takes_the_first_frame_at_or_after_each_multiple() -> None:
    times = [0, 40, 80, 120, 600, 620, 1010, 1990, 2000]
    assert sampled(Sampling.of(fps=2), times) == [0, 4, 6, 7, 8]


def test_rounded_timestamps_count_as_what_they_stand_for() -> None:
    thirty_a_second = [round(number * 1000 / 30) for number in range(90)]
    assert sampled(Sampling.of(fps=30), thirty_a_second) == list(range(90))
    assert sampled(Sampling.of(fps=10), thirty_a_second) == list(range(0, 90, 3))


def test_more_than_there_are_takes_all() -> None:
    assert sampled(Sampling.of(fps=100), [0, 40, 80]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("every", "fps"), [(0, None), (-1, None), (2, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))]
)
def test_nonsense_is_refused(every: int, fps: float | None) -> None:
    with pytest.raises(UsageError):
        Sampling.of(every, fps)
