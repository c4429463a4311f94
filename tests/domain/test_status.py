"""The state machine: a table, so its properties can be stated over all of it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vidan.domain.status import ALLOWED, ENDED, HELD, RUNNING, STOPPING, Status

statuses = st.sampled_from(sorted(Status))


def reachable(start: Status, without: frozenset[Status] = frozenset()) -> set[Status]:
    found: set[Status] = set()
    waiting = [start]
    while waiting:
        for to in ALLOWED[waiting.pop()] - found - without:
            found.add(to)
            waiting.append(to)
    return found


def test_every_status_is_in_exactly_one_of_the_groups() -> None:
    waiting = {Status.INIT_STARTUP}
    assert sorted([*waiting, *RUNNING, *STOPPING, *ENDED]) == sorted(Status)
    assert HELD == RUNNING | STOPPING
    assert set(ALLOWED) == set(Status)


@given(statuses, statuses)
def test_every_status_leads_to_every_other(start: Status, end: Status) -> None:
    assert end in reachable(start)


@given(statuses)
def test_no_status_leads_to_itself(status: Status) -> None:
    assert status not in ALLOWED[status]


@given(st.sampled_from(sorted(ENDED)))
def test_what_has_ended_goes_on_only_by_a_start(status: Status) -> None:
    assert ALLOWED[status] == {Status.INIT_STARTUP}


@given(st.sampled_from(sorted(STOPPING)))
def test_a_stop_is_never_undone(status: Status) -> None:
    assert not reachable(status, without=ENDED) - STOPPING
    assert ALLOWED[status] <= STOPPING | {Status.INACTIVE, Status.COMPLETED}


@given(statuses, statuses)
def test_a_worker_gets_hold_of_a_scenario_only_by_a_claim(start: Status, end: Status) -> None:
    if start not in HELD and end in ALLOWED[start] and end in HELD:
        assert (start, end) == (Status.INIT_STARTUP, Status.INIT_STARTUP_PROCESSING)


@given(statuses)
def test_a_held_scenario_can_always_be_taken_from_its_worker(status: Status) -> None:
    if status in RUNNING:
        assert {Status.INIT_STARTUP, Status.FAILED, Status.INIT_SHUTDOWN} <= ALLOWED[status]
    if status in STOPPING:
        assert Status.INACTIVE in ALLOWED[status]


@given(st.lists(st.integers(0, 7), max_size=30))
def test_completed_is_reached_only_from_frames_that_flowed(choices: list[int]) -> None:
    """Any walk from a created scenario: before `completed` it was `active` or asked to stop."""
    walk = [Status.INIT_STARTUP]
    for choice in choices:
        options = sorted(ALLOWED[walk[-1]])
        walk.append(options[choice % len(options)])
    for before, after in pairwise(walk):
        if after is Status.COMPLETED:
            assert before in (Status.ACTIVE, Status.INIT_SHUTDOWN)
