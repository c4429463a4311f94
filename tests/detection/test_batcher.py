"""One detector for several scenarios: batches, turns, and which submission an error belongs to."""

from __future__ import annotations

import gc
from weakref import ReferenceType, ref

import pytest

from tests.support.gate import ABOUT, Gate, Pixels, frames, held, no_clock, submit, values
from tests.support.processes import eventually
from vidan.detection.batcher import Batcher
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import DeviceLost, RejectedTask


def test_a_lost_gpu_is_told_once_and_fails_all_that_was_in_the_call(gate: Gate) -> None:
    """Each submission would fail alone, too, and so would all later ones."""
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
    """Stands for memory that a call has on a device."""


def test_a_call_that_failed_holds_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that had no memory for a batch has memory for its parts, and afterwards."""
    gate, made, left = Gate(), list[ReferenceType[Held]](), list[int]()
    detect = gate.detect

    def holding(pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        left.append(sum(one() is not None for one in made))
        tensor = Held()
        made.append(ref(tensor))
        return detect(pixels, width, height)

    monkeypatch.setattr(gate, "detect", holding)
    gc.disable()  # objects in a reference cycle would be kept
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
    """Its detections would depend on the scenarios that share its batch."""
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
    """One seat always has two full batches waiting, the other has a frame now and then."""
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
        gate.let()  # the call that is running; then it is the modest one's turn
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
    """Returns no list for the frames in which it finds nothing, those of the value 7."""

    def detect(self, pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        return [found for found in super().detect(pixels, width, height) if found[0].score > 0.1]


def test_frames_without_a_list_of_their_own_are_nobody_elses() -> None:
    """Else all frames behind the missing one would get the detections of other frames."""
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


def test_who_may_have_made_a_process_hang_shares_no_call(gate: Gate) -> None:
    """So a second hang is charged only to the guilty scenario."""
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


class Least(Detector):
    """The least that a detector has: everything else is a default of the protocol."""

    labels = ("thing",)

    def detect(self, pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        return [[Detection((0.0, 0.0, float(width), float(height)), "thing", 0.5)] for _ in pixels]


def test_labels_and_detect_suffice_for_a_detector() -> None:
    seat = Batcher(Least()).seat(no_clock)
    assert seat.labels == ("thing",)
    assert seat.batch_size == 1
    assert seat.decode_size(480, 640) == (480, 640)
    found = seat.submit(frames(1), 4, 3).result()
    assert found == [[Detection((0.0, 0.0, 4.0, 3.0), "thing", 0.5)]]
    seat.close()


class Unshowable(Exception):
    """Its words fail, as those of any user's exception may."""

    def __str__(self) -> str:
        raise SystemExit(1)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(1)

    __hash__ = None  # type: ignore[assignment]


def test_an_error_that_can_not_be_judged_ends_no_lane(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scenarios of the detector would wait for ever for the lane's thread."""

    def fail(pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        raise Unshowable from Unshowable()

    def lost(error: BaseException) -> DeviceLost | None:
        return DeviceLost(f"lost: {error}")

    detect = gate.detect
    monkeypatch.setattr(gate, "detect", fail)
    batcher = Batcher(gate, lost=lost)
    seat = batcher.seat(no_clock)
    failed = submit(seat, 1)
    assert eventually(lambda: failed.settled)
    with pytest.raises(SystemExit):
        failed.result()
    monkeypatch.setattr(gate, "detect", detect)
    gate.let()
    assert values(submit(seat, 2)) == [2]
