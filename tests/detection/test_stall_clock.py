"""Stall clocks run for the scenarios whose frames are in a call, and only for those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.gate import Gate, submit
from tests.support.processes import eventually
from vidan.detection.batcher import Batcher
from vidan.processes.slotboard import Call


class Clocks:
    """Records which scenarios' clocks run."""

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
    """On a GPU this sets the device and creates a stream, and may hang like a call."""
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
