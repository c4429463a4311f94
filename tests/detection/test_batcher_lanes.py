"""How long frames wait for others, and how many lanes there are."""

from __future__ import annotations

import threading

import pytest

from tests.support.gate import Gate, frames, no_clock, submit, values
from tests.support.processes import eventually
from vidan.detection.batcher import FILE_WAIT_S, LIVE_WAIT_S, Batcher, Pending, Seat


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def waits(batcher: Batcher, clock: Clock, seconds: float) -> bool:
    """Whether the waiting batch starts after `seconds`, and not before."""
    with batcher.lock:
        batch = batcher._form(1)
        clock.time = seconds - 1e-6
        early = batcher._wait(batch)
        clock.time = seconds
        late = batcher._wait(batch)
        clock.time = 0.0
    return early > 0 and late == 0


def put(batcher: Batcher, seat: Seat, count: int = 1, since: float = 0.0) -> None:
    """Do what `submit` does, without a lane that would take the frames."""
    if seat not in batcher._seats:
        batcher._seats.append(seat)
    if count:
        seat.waiting.append(Pending(seat, frames(1, count), 2, 2, since))


def test_a_lone_scenario_never_waits(gate: Gate) -> None:
    batcher = Batcher(gate, clock := Clock())
    put(batcher, batcher.seat(no_clock))
    assert batcher._wait(batcher._form(1)) == 0
    clock.time = 5.0
    assert batcher._wait(batcher._form(1)) == 0


def test_frames_wait_only_for_those_about_to_submit(gate: Gate) -> None:
    batcher = Batcher(gate, clock := Clock())
    one, other = batcher.seat(no_clock), batcher.seat(no_clock)
    put(batcher, one)
    put(batcher, other, 0)
    assert waits(batcher, clock, FILE_WAIT_S)
    other.inside = 1  # a call has its frames: it will not submit soon
    assert batcher._wait(batcher._form(1)) == 0
    other.inside = 0
    put(batcher, other)
    assert batcher._wait(batcher._form(1)) == 0  # all have submitted


def test_live_ones_wait_longer_and_a_file_among_them_does_not(gate: Gate) -> None:
    batcher = Batcher(gate, clock := Clock())
    camera, other, third = (batcher.seat(no_clock) for _ in range(3))
    camera.live = other.live = True
    put(batcher, camera)
    put(batcher, third, 0)
    assert waits(batcher, clock, LIVE_WAIT_S)
    put(batcher, other, 1)
    assert waits(batcher, clock, LIVE_WAIT_S)
    other.live = False
    assert waits(batcher, clock, FILE_WAIT_S)


def test_a_full_batch_waits_for_nobody(gate: Gate) -> None:
    batcher = Batcher(gate, Clock())
    put(batcher, batcher.seat(no_clock), 4)
    put(batcher, batcher.seat(no_clock), 0)
    assert batcher._wait(batcher._form(1)) == 0


def test_lanes_that_share_cores_never_wait() -> None:
    batcher = Batcher(Gate(max_parallel=2, prefers_small_calls=True), Clock())
    put(batcher, batcher.seat(no_clock))
    put(batcher, batcher.seat(no_clock), 0)
    assert batcher._wait(batcher._form(1)) == 0


def test_what_waits_is_spread_over_idle_lanes() -> None:
    batcher = Batcher(Gate(max_parallel=2, prefers_small_calls=True))
    for _ in range(2):
        put(batcher, batcher.seat(no_clock))
    assert len(batcher._form(2)) == 1
    assert len(batcher._form(1)) == 2
    full = Batcher(Gate(max_parallel=2, prefers_small_calls=False))
    for _ in range(2):
        put(full, full.seat(no_clock))
    assert len(full._form(2)) == 2


def test_a_file_keeps_two_lanes_busy_and_a_camera_one() -> None:
    gate = Gate(max_parallel=3, prefers_small_calls=True)
    batcher = Batcher(gate)
    file, camera = batcher.seat(no_clock), batcher.seat(no_clock)
    camera.live = True
    pending = [submit(camera, 1)]
    assert eventually(lambda: len(gate.calls) == 1)
    assert gate.shares == {(0, 1)}
    pending += [submit(file, 2), submit(file, 3)]
    assert eventually(lambda: len(gate.calls) == 3)  # all at once: nothing has been let yet
    assert {lanes for _, lanes in gate.shares} == {1, 3}
    gate.let(3)
    assert [values(one) for one in pending] == [[1], [2], [3]]
    for seat in (file, camera):
        seat.close()
    assert eventually(lambda: not batcher._lanes)  # lanes end when no seat is left


def test_lanes_start_again_after_the_last_one_has_left(gate: Gate) -> None:
    batcher = Batcher(gate)
    gate.let(2)
    for _ in range(2):
        seat = batcher.seat(no_clock)
        assert values(submit(seat, 7)) == [7]
        seat.close()
        assert eventually(lambda: not batcher._lanes)


def test_a_lane_that_could_not_start_is_started_by_the_next_submission(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    batcher = Batcher(gate)
    seat = batcher.seat(no_clock)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            submit(seat, 1)
    assert not seat.waiting
    gate.let()
    pending = submit(seat, 2)
    assert eventually(lambda: pending.settled)
    assert values(pending) == [2]


def test_a_lane_lives_on_after_an_error(gate: Gate) -> None:
    seat = Batcher(gate).seat(no_clock)
    gate.let(2)
    with pytest.raises(ValueError, match="255"):
        submit(seat, 255).result()
    assert values(submit(seat, 4)) == [4]
