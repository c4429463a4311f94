"""Frame numbers and times follow from the timestamps of packets only."""

from __future__ import annotations

import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from vidan.video.sampling import Sampling
from vidan.video.timeline import PASSED, Entry, Timeline

MS = Fraction(1, 1000)
B_FRAMES = [(0, -80), (160, -40), (80, 0), (40, 40), (120, 80), (200, 120)]
"""(pts, dts) in decode order."""


def feed(timeline: Timeline, packets: list[tuple[int | None, int | None]]) -> list[Entry]:
    entries = [timeline.add(pts, dts) for pts, dts in packets]
    timeline.finish()
    return entries


def test_a_number_is_the_rank_of_the_timestamp() -> None:
    entries = feed(Timeline(MS, Sampling()), list(B_FRAMES))
    assert [entry.number for entry in entries] == [0, 4, 2, 1, 3, 5]
    assert [entry.time_ms for entry in entries] == [0, 160, 80, 40, 120, 200]


def test_a_number_is_given_only_when_nothing_can_come_before() -> None:
    timeline = Timeline(MS, Sampling())
    entries = [timeline.add(pts, dts) for pts, dts in B_FRAMES[:4]]
    assert [entry.number for entry in entries] == [0, None, None, 1]


def test_a_backward_jump_counts_on_and_time_goes_on_one_frame_later() -> None:
    entries = feed(Timeline(MS, Sampling()), [(0, 0), (40, 40), (80, 80), (0, 0), (40, 40)])
    assert [entry.number for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.time_ms for entry in entries] == [0, 40, 80, 120, 160]
    assert [entry.seekable for entry in entries] == [True, True, True, False, False]


def test_times_count_from_the_first_shown_frame() -> None:
    entries = feed(Timeline(Fraction(1, 90_000), Sampling()), [(7200, 0), (10800, 3600)])
    assert [entry.time_ms for entry in entries] == [0, 40]


def test_missing_and_equal_timestamps_are_told_apart_by_the_order_of_packets() -> None:
    entries = feed(Timeline(MS, Sampling()), [(0, 0), (None, 0), (40, 40), (40, 41)])
    assert [entry.number for entry in entries] == [0, 1, 2, 3]
    assert [entry.seekable for entry in entries] == [True, False, True, False]


@given(st.integers(0, 59), st.integers(0, 59), st.integers(0, 2**32))
def test_a_resume_numbers_as_an_undisturbed_run(place: int, before: int, seed: int) -> None:
    """A resume may begin at any packet that is early enough, for any frame."""
    packets = groups(seed)
    whole = feed(Timeline(MS, Sampling(fps=Fraction(7))), list(packets))
    first = next(entry for entry in whole if entry.number == place)
    begin = max(n for n in range(0, 60, 10) if packets[n][0] <= first.pts and n <= max(before, 0))
    resumed = Timeline(MS, Sampling(fps=Fraction(7)), start=0, resume=(place, first.pts))
    for entry, again in zip(whole[begin:], feed(resumed, list(packets[begin:])), strict=True):
        assert entry.number is not None
        if entry.number < place:
            assert again.number == PASSED
        else:
            assert (again.number, again.time_ms) == (entry.number, entry.time_ms)
            if packets[begin][0] < first.pts or place == 0:
                assert again.wanted == entry.wanted


def groups(seed: int) -> list[tuple[int, int]]:
    """Six groups of ten pictures, at uneven times, shuffled behind their key frame."""
    random_ = random.Random(seed)
    times, packets = [0], []
    for _ in range(59):
        times.append(times[-1] + random_.choice([10, 33, 40, 400]))
    for group in range(0, 60, 10):
        order = [group, *random_.sample(range(group + 1, group + 10), 9)]
        for place, number in enumerate(order, group):
            packets.append((times[number], times[place] - 5000))
    return packets
