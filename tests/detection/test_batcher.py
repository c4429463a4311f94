"""One detector for several scenarios: turns, waits, lanes, and whose fault is whose."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import ReferenceType, ref

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.processes import eventually
from vidan.detection.batcher import FILE_WAIT_S, LIVE_WAIT_S, Batcher, Pending, Seat
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import DeviceLost, HandOver, RejectedTask
from vidan.processes.slotboard import Call

Pixels = NDArray[np.uint8]
PATIENCE = 10.0
ABOUT = ContextVar("about", default="nobody")


@dataclass
class Gate(Detector):
    """A detector that takes a batch only when it is let: finds each frame's first value.

    A frame of the value 255 is one that it fails at.
    """

    batch_size: int = 4
    max_parallel: int = 1
    prefers_small_calls: bool = False
    accepts_mixed_sizes: bool = True
    labels: tuple[str, ...] = ("value",)
    open: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    calls: list[list[int]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    shares: set[tuple[int, int]] = field(default_factory=set)
    closed: bool = False
    about: list[str] = field(default_factory=list)
    """What each call would say that it is about, were it to log something."""

    def detect(self, pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        values = [int(frame[0, 0, 0]) for frame in pixels]
        self.calls.append(values)
        self.shapes.append(pixels.shape)
        self.about.append(ABOUT.get())
        assert self.open.acquire(timeout=PATIENCE)
        if 255 in values:
            raise ValueError(f"can't look at {values}")
        box = (width / 2, 0.0, float(width), float(height))
        return [[Detection(box, "value", value / 255)] for value in values]

    def prepare_thread(self, lane: int, lanes: int) -> None:
        self.shares.add((lane, lanes))

    def let(self, calls: int = 1) -> None:
        self.open.release(calls)


class Clock:
    """A clock that a test sets; what it was asked for is a sign that a lane waits."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.let(1000)  # no thread is left behind


@contextmanager
def no_clock(_: Call) -> Iterator[None]:
    yield


def frames(value: int, count: int = 1, shape: tuple[int, int] = (2, 2)) -> Pixels:
    return np.full((count, *shape, 3), value, np.uint8)


def submit(seat: Seat, value: int, count: int = 1) -> Pending:
    return seat.submit(frames(value, count), 2, 2)


def values(pending: Pending) -> list[int]:
    return [round(255 * found[0].score) for found in pending.result()]


def held(gate: Gate, batcher: Batcher) -> Pending:
    """Frames of a seat of their own that the detector holds until it is let."""
    pending = submit(batcher.seat(no_clock), 99, gate.batch_size)
    assert eventually(lambda: len(gate.calls) == 1)
    return pending


def test_a_lost_gpu_is_told_once_and_fails_all_that_was_in_the_call(gate: Gate) -> None:
    """It would fail for each of them alone, too, and for all that comes after."""
    told: list[DeviceLost] = []

    def lost(error: BaseException) -> DeviceLost:
        told.append(DeviceLost(f"lost: {error}"))
        return told[-1]

    batcher = Batcher(gate, lost=lost)
    first = held(gate, batcher)
    pending = [submit(batcher.seat(no_clock), value) for value in (1, 255)]
    gate.let(2)
    assert first.result()
    for one in pending:
        with pytest.raises(DeviceLost, match="can't look at"):
            one.result()
    assert len(told) == 1
    assert gate.calls[1:] == [[1, 255]]


def test_an_error_that_is_its_own_cause_is_settled(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        error, cause = ValueError("one"), ValueError("two")
        error.__cause__, cause.__cause__ = cause, error
        raise error

    monkeypatch.setattr(gate, "detect", fail)
    pending = submit(Batcher(gate).seat(no_clock), 1)
    assert eventually(lambda: pending.settled)
    with pytest.raises(ValueError, match="one"):
        pending.result()


class Held:
    """What a call has on a device."""


def test_a_call_that_failed_holds_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that had no room for a batch has it for the parts, and afterwards."""
    gate, made, left = Gate(), list[ReferenceType[Held]](), list[int]()
    detect = gate.detect

    def holding(pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        left.append(sum(one() is not None for one in made))
        tensor = Held()
        made.append(ref(tensor))
        return detect(pixels, width, height)

    monkeypatch.setattr(gate, "detect", holding)
    gc.disable()  # what hangs in a circle would be held for long
    try:
        batcher = Batcher(gate)
        first = held(gate, batcher)
        pending = [submit(batcher.seat(no_clock), value) for value in (1, 255)]
        gate.let(4)
        assert first.result()
        assert values(pending[0]) == [1]
        with pytest.raises(ValueError, match="can't look at"):
            pending[1].result()
        assert gate.calls[1:] == [[1, 255], [1], [255]]
        assert left == [0, 0, 0, 0]
        assert all(one() is None for one in made)
        seen = [ref(one.pixels) for one in pending]
        del pending
        assert eventually(lambda: all(one() is None for one in seen))
    finally:
        gc.enable()


def test_a_call_for_one_scenario_alone_knows_whose_it_is(gate: Gate) -> None:
    batcher = Batcher(gate)
    first = held(gate, batcher)
    one, two = batcher.seat(no_clock), batcher.seat(no_clock)
    for seat, name, count in ((one, "one", 4), (one, "one", 2), (two, "two", 2)):
        token = ABOUT.set(name)
        submit(seat, 1, count)
        ABOUT.reset(token)
    gate.let(3)
    assert eventually(lambda: len(gate.calls) == 3)
    assert values(first) == [99] * 4
    assert gate.about == ["nobody", "one", "nobody"]  # the last one has frames of both


def test_results_go_to_whom_they_belong(gate: Gate) -> None:
    batcher = Batcher(gate)
    first = held(gate, batcher)
    one, two = batcher.seat(no_clock), batcher.seat(no_clock)
    mine, yours = submit(one, 1, 3), submit(two, 2)
    gate.let(2)
    assert values(yours) == [2]
    assert values(mine) == [1, 1, 1]
    assert values(first) == [99] * 4
    assert gate.calls == [[99] * 4, [1, 1, 1, 2]]  # together


def test_boxes_are_scaled_to_each_ones_source(gate: Gate) -> None:
    batcher = Batcher(gate)
    held(gate, batcher)
    small = batcher.seat(no_clock).submit(frames(1), 2, 2)
    large = batcher.seat(no_clock).submit(frames(2), 20, 10)
    gate.let(2)
    assert small.result()[0][0].box == (1.0, 0.0, 2.0, 2.0)
    assert large.result()[0][0].box == (10.0, 0.0, 20.0, 10.0)
    assert len(gate.calls) == 2


def test_two_sizes_are_never_in_one_batch(gate: Gate) -> None:
    batcher = Batcher(gate)
    held(gate, batcher)
    seats = [batcher.seat(no_clock) for _ in range(4)]
    pending = [
        seat.submit(frames(n, 1, (2, 2) if n % 2 else (4, 4)), 8, 8) for n, seat in enumerate(seats)
    ]
    gate.let(3)
    assert [values(one) for one in pending] == [[0], [1], [2], [3]]
    assert gate.calls[1:] == [[0, 2], [1, 3]]
    assert gate.shapes[1:] == [(2, 4, 4, 3), (2, 2, 2, 3)]


def test_sources_of_two_sizes_share_no_call_of_a_detector_that_may_go_by_them() -> None:
    """What it finds would depend on who shares its batch."""
    gate = Gate(accepts_mixed_sizes=False)
    batcher = Batcher(gate)
    held(gate, batcher)
    sources = [(2, 2), (20, 10), (2, 2)]
    pending = [
        batcher.seat(no_clock).submit(frames(n), *source) for n, source in enumerate(sources)
    ]
    gate.let(3)
    assert [values(one) for one in pending] == [[0], [1], [2]]
    assert gate.calls[1:] == [[0, 2], [1]]


def test_who_has_much_waiting_starves_nobody(gate: Gate) -> None:
    """One with full batches, always two of them waiting, and one with a frame now and then."""
    batcher = Batcher(gate)
    greedy, modest = batcher.seat(no_clock), batcher.seat(no_clock)
    gate.let()
    submit(modest, 2).result()
    submit(greedy, 1, 4)
    assert eventually(lambda: len(gate.calls) == 2)
    for _ in range(5):
        submit(greedy, 1, 4), submit(greedy, 1, 4)
        asked = submit(modest, 2)
        before = len(gate.calls)
        gate.let()  # what is inside now; then it is the modest one's turn
        assert eventually(lambda: len(gate.calls) > before)  # noqa: B023
        assert gate.calls[-1] == [2]
        gate.let()
        assert values(asked) == [2]
        gate.let()
        assert eventually(lambda: len(gate.calls) > before + 2)  # noqa: B023
        assert len(greedy.waiting) <= 1


def test_turns_go_round(gate: Gate) -> None:
    batcher = Batcher(gate)
    held(gate, batcher)
    seats = [batcher.seat(no_clock) for _ in range(3)]
    pending = [submit(seat, n, 4) for n, seat in enumerate(seats) for _ in range(2)]
    gate.let(7)
    for one in pending:
        one.result()
    assert [call[0] for call in gate.calls[1:]] == [0, 1, 2, 0, 1, 2]


# --- waiting for others


def waits(batcher: Batcher, clock: Clock, seconds: float) -> bool:
    """Whether what waits goes only once so many seconds have passed."""
    with batcher.lock:
        batch = batcher._form(1)
        clock.time = seconds - 1e-6
        early = batcher._wait(batch)
        clock.time = seconds
        late = batcher._wait(batch)
        clock.time = 0.0
    return early > 0 and late == 0


def put(batcher: Batcher, seat: Seat, count: int = 1, since: float = 0.0) -> None:
    """As `submit` does, without a lane that would take it."""
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
    other.inside = 1  # its frames are at the detector: it won't submit for long
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


# --- lanes


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
    assert eventually(lambda: not batcher._lanes)  # nobody needs them any more


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


# --- errors


def test_only_the_guilty_fail(gate: Gate) -> None:
    batcher = Batcher(gate)
    held(gate, batcher)
    pending = [submit(batcher.seat(no_clock), value) for value in (1, 255, 3)]
    gate.let(5)
    assert values(pending[0]) == [1]
    assert values(pending[2]) == [3]
    with pytest.raises(ValueError, match=r"can't look at \[255\]"):
        pending[1].result()
    assert gate.calls[1:] == [[1, 255, 3], [1], [255], [3]]


class Omitting(Gate):
    """It leaves out the frames in which it finds nothing: those of the value 7."""

    def detect(self, pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        return [found for found in super().detect(pixels, width, height) if found[0].score > 0.1]


def test_frames_without_a_list_of_their_own_are_nobody_elses() -> None:
    """Else all that stand behind the missing one would get what was found in others' frames."""
    gate = Omitting()
    batcher = Batcher(gate)
    holding = held(gate, batcher)
    first = submit(batcher.seat(no_clock), 7)
    second = submit(batcher.seat(no_clock), 50, 3)
    gate.let(4)
    assert values(holding) == [99] * 4
    with pytest.raises(RejectedTask, match="Omitting returned 0 lists of detections for 1 frames"):
        first.result()
    assert values(second) == [50, 50, 50]
    assert gate.calls[1:] == [[7, 50, 50, 50], [7], [50, 50, 50]]


def test_a_lane_lives_on_after_an_error(gate: Gate) -> None:
    seat = Batcher(gate).seat(no_clock)
    gate.let(2)
    with pytest.raises(ValueError, match="255"):
        submit(seat, 255).result()
    assert values(submit(seat, 4)) == [4]


# --- ends


class Told:
    """A scenario that can be told to end."""

    def __init__(self) -> None:
        self.reason: HandOver | None = None

    def check(self) -> None:
        if self.reason is not None:
            raise self.reason


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # what the test is about
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_who_is_told_to_end_while_waiting_leaves_at_once(gate: Gate) -> None:
    batcher, told = Batcher(gate), Told()
    first = held(gate, batcher)  # and it is not let before the end
    seat = batcher.seat(no_clock, told.check)
    waiting = submit(seat, 1)
    thread, raised = in_thread(waiting.result)
    told.reason = HandOver("the worker is leaving")
    thread.join(PATIENCE)
    assert raised == [told.reason]
    seat.close()
    gate.let()
    assert values(first) == [99] * 4
    assert eventually(lambda: list(batcher._seats) == [first.seat])
    assert gate.calls == [[99] * 4]  # its frames were withdrawn


def test_what_the_detector_has_is_waited_for(gate: Gate) -> None:
    """Else the slot would go on with the clock of the next scenario running for this one's call."""
    batcher, told = Batcher(gate), Told()
    seat = batcher.seat(no_clock, told.check)
    pending = submit(seat, 1, 4)
    submit(seat, 2, 4)
    assert eventually(lambda: len(gate.calls) == 1)
    told.reason = HandOver("the worker is leaving")
    thread, raised = in_thread(pending.result)
    leaving, _ = in_thread(seat.close)
    leaving.join(0.2)
    assert leaving.is_alive()
    gate.let()
    thread.join(PATIENCE)
    leaving.join(PATIENCE)
    assert not thread.is_alive()
    assert not leaving.is_alive()
    assert raised == []  # the batch that was inside is not lost
    assert gate.calls == [[1] * 4]


def test_what_waits_is_bounded(gate: Gate) -> None:
    batcher, told = Batcher(gate), Told()
    held(gate, batcher)
    seat = batcher.seat(no_clock, told.check)
    submit(seat, 1), submit(seat, 2)
    thread, raised = in_thread(lambda: submit(seat, 3))
    thread.join(0.2)
    assert thread.is_alive()
    told.reason = HandOver("the worker is leaving")
    thread.join(PATIENCE)
    assert raised == [told.reason]
    assert len(seat.waiting) == 2


# --- stall clocks


class Clocks:
    """Which scenarios' clocks run."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.started: list[str] = []

    def of(self, name: str) -> Callable[[Call], object]:
        @contextmanager
        def clock(call: Call) -> Iterator[None]:
            assert call is Call.DETECTOR
            self.running.append(name)
            self.started.append(name)
            yield
            self.running.remove(name)

        return clock


def test_clocks_run_for_those_inside_and_not_for_those_who_wait(gate: Gate) -> None:
    batcher, clocks = Batcher(gate), Clocks()
    seats = {name: batcher.seat(clocks.of(name)) for name in ("a", "b", "c")}  # type: ignore[arg-type]
    first = submit(seats["a"], 1, 4)
    assert eventually(lambda: len(gate.calls) == 1)
    waiting = [submit(seats["b"], 2, 2), submit(seats["c"], 3, 2)]
    assert clocks.running == ["a"]
    gate.let()
    first.result()
    assert eventually(lambda: len(gate.calls) == 2)
    assert clocks.running == ["b", "c"]  # in the order of their turns
    gate.let()
    for one in waiting:
        one.result()
    assert clocks.running == []


def test_clocks_run_while_a_lane_takes_its_share(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU that sets the device and makes a stream, and may hang as a call may."""
    batcher, clocks = Batcher(gate), Clocks()
    running: list[list[str]] = []
    monkeypatch.setattr(gate, "prepare_thread", lambda *_: running.append(list(clocks.running)))
    gate.let()
    submit(batcher.seat(clocks.of("a")), 1).result()  # type: ignore[arg-type]
    assert running == [["a"]]
    assert clocks.running == []


def test_a_clock_goes_on_while_any_call_has_its_frames() -> None:
    gate, clocks = Gate(max_parallel=2), Clocks()
    seat = Batcher(gate).seat(clocks.of("a"))  # type: ignore[arg-type]
    pending = [submit(seat, 1, 4), submit(seat, 2, 4)]
    assert eventually(lambda: len(gate.calls) == 2)
    assert clocks.started == ["a"]  # the older call's
    gate.let()
    assert eventually(lambda: any(one.settled for one in pending))
    assert clocks.running == ["a"]
    gate.let()
    for one in pending:
        one.result()
    assert clocks.running == []


@pytest.mark.parametrize(("first", "starts"), [("the older one", 2), ("the younger one", 1)])
def test_a_call_that_hangs_keeps_its_clock_when_a_younger_one_ends(
    gate: Gate, first: str, starts: int
) -> None:
    clocks = Clocks()
    seat = Batcher(gate).seat(clocks.of("a"))  # type: ignore[arg-type]
    calls = {"the older one": seat.clock(), "the younger one": seat.clock()}
    for call in calls.values():
        call.__enter__()
    assert clocks.started == ["a"]
    calls.pop(first).__exit__(None, None, None)
    assert clocks.running == ["a"]
    assert clocks.started == ["a"] * starts
    for call in calls.values():
        call.__exit__(None, None, None)
    assert clocks.running == []


def test_who_may_have_made_a_process_hang_shares_no_call(gate: Gate) -> None:
    """So a second hang is charged to nobody but the guilty."""
    batcher = Batcher(gate)
    held(gate, batcher)
    pending = [
        submit(batcher.seat(no_clock), 1),
        submit(batcher.seat(no_clock, alone=True), 2),
        submit(batcher.seat(no_clock), 3),
    ]
    gate.let(3)
    assert [values(one) for one in pending] == [[1], [2], [3]]
    assert gate.calls[1:] == [[1, 3], [2]]
