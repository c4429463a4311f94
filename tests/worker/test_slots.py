"""Slots become more and fewer while they run something."""

from __future__ import annotations

import resource
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.detection.cache import DetectorCache
from vidan.processes.slotboard import SlotBoard
from vidan.protocol.claims import Claimed
from vidan.protocol.fences import Fence
from vidan.run.context import RunContext
from vidan.run.run import Run
from vidan.tasks.app import Vidan
from vidan.worker.execution import End, Outcome, run_scenario
from vidan.worker.slots import ClaimedRun, Slots

WORKER = uuid.uuid4()


def claimed_run(scenario_id: int) -> ClaimedRun:
    claimed = Claimed(
        fence=Fence(scenario_id, 1, WORKER),
        task="t",
        source=None,
        needs_source=False,
        params={},
        checkpoint=0,
        checkpoint_pts=None,
        state={},
        label_names=(),
        crashes=0,
    )
    return ClaimedRun(claimed)


class Runs:
    """Runs that last until a test ends them, and the most that there were at once."""

    def __init__(self) -> None:
        self.running: dict[int, int] = {}
        self.most = 0
        self.used: set[int] = set()
        self._go: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    def __call__(self, claimed_run: ClaimedRun, slot: int) -> Outcome:
        with self._lock:
            self.running[claimed_run.id] = slot
            self.used.add(slot)
            self.most = max(self.most, len(self.running))
            go = self._go.setdefault(claimed_run.id, threading.Event())
        assert go.wait(30)
        with self._lock:
            del self.running[claimed_run.id]
        return Outcome(claimed_run.claimed, End.COMPLETED)

    def end(self, *ids: int) -> None:
        with self._lock:
            for scenario_id in ids:
                self._go.setdefault(scenario_id, threading.Event()).set()

    def are(self, *ids: int) -> bool:
        return eventually(lambda: set(self.running) == set(ids), 20)


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def board() -> Iterator[SlotBoard]:
    made = SlotBoard.create(64)
    yield made
    made.close()


@pytest.fixture
def slots(runs: Runs, board: SlotBoard) -> Iterator[Slots]:
    made = Slots(1, runs, board)
    yield made
    runs.end(*range(100))
    made.close()


def test_more_slots_take_at_once_what_waits(slots: Slots, runs: Runs, board: SlotBoard) -> None:
    slots.add(map(claimed_run, range(4)))
    assert runs.are(0)
    assert board.in_use == 1
    slots.resize(3)
    assert runs.are(0, 1, 2)
    assert (slots.waiting, slots.free) == (1, -1)
    assert sorted(runs.running.values()) == [0, 1, 2]
    assert board.in_use == slots.thread_count == 3
    assert sorted(board.executing()) == [1, 2]  # 0 is no scenario's id


def test_with_fewer_what_runs_ends_and_then_as_many_run(
    slots: Slots, runs: Runs, board: SlotBoard
) -> None:
    slots.resize(4)
    slots.add(map(claimed_run, range(1, 8)))
    assert runs.are(1, 2, 3, 4)
    slots.resize(2)
    assert runs.are(1, 2, 3, 4)  # no run is ended for it
    assert board.in_use == 4
    runs.end(1, 2)
    assert runs.are(3, 4)
    assert eventually(lambda: slots.thread_count == 2, 20)
    assert board.in_use == 2
    assert slots.waiting == 3
    assert not eventually(lambda: len(runs.running) != 2, 0.3)
    runs.most = 0
    runs.end(*range(8))
    assert eventually(lambda: len(slots.outcomes()) == 7, 20)
    assert runs.most <= 2


@pytest.mark.parametrize("number", [0, 1])
def test_one_slot_begins_nothing_beside_what_still_runs(
    slots: Slots, runs: Runs, number: int
) -> None:
    slots.resize(2)
    slots.add([claimed_run(1), claimed_run(2)])
    assert runs.are(1, 2)
    slots.resize(1)
    slots.add([claimed_run(3)])
    (first,) = (one for one, slot in runs.running.items() if slot == number)
    runs.end(first)
    assert runs.are(3 - first)
    assert not eventually(lambda: 3 in runs.running, 0.3)
    runs.end(3 - first)
    assert runs.are(3)


def test_waiting_runs_can_be_taken_back_after_slots_became_fewer(slots: Slots, runs: Runs) -> None:
    slots.resize(2)
    slots.add(map(claimed_run, range(1, 6)))
    assert runs.are(1, 2)
    slots.resize(1)
    assert [one.id for one in slots.take_back_waiting()] == [3, 4, 5]
    runs.end(1, 2)
    assert eventually(lambda: slots.thread_count == 1, 20)


def test_a_run_that_is_not_taken_back_after_all_is_not_lost_to_a_slot(
    slots: Slots, runs: Runs
) -> None:
    """A slot becomes free while the run is not in the queue of waiting runs."""

    class Slow(deque[ClaimedRun]):
        def appendleft(self, one: ClaimedRun) -> None:
            runs.end(1)
            assert runs.are()
            time.sleep(0.1)
            super().appendleft(one)

    slots.add([claimed_run(1)])
    assert runs.are(1)
    slots._waiting = Slow()
    slots.add([claimed_run(2)])
    assert slots.take_back_waiting(older_than=60) == []
    assert runs.are(2)
    runs.end(2)


def test_numbers_of_slots_are_used_again(slots: Slots, runs: Runs, board: SlotBoard) -> None:
    """Each has a place on the board, which has no more than the most slots."""
    for _ in range(20):
        slots.resize(64)
        assert slots.thread_count == 64
        slots.resize(1)
        slots.resize(30)
        assert eventually(lambda: slots.thread_count == 30, 20)
    slots.resize(64)
    slots.add(map(claimed_run, range(1, 65)))
    assert runs.are(*range(1, 65))
    assert runs.used == set(range(64))
    assert sorted(board.executing()) == list(range(1, 65))


def test_growing_again_before_what_is_too_much_has_ended(slots: Slots, runs: Runs) -> None:
    slots.resize(3)
    slots.add(map(claimed_run, range(1, 6)))
    assert runs.are(1, 2, 3)
    slots.resize(1)
    slots.resize(4)
    assert runs.are(1, 2, 3, 4)
    runs.end(1)
    assert runs.are(2, 3, 4, 5)


def test_under_load_each_runs_once_and_never_too_many(board: SlotBoard) -> None:
    lock = threading.Lock()
    ran: list[int] = []
    running = 0
    too_many: list[int] = []
    allowed = 8

    def run(one: ClaimedRun, slot: int) -> Outcome:
        nonlocal running
        with lock:
            running += 1
            if running > allowed:
                too_many.append(running)
            ran.append(one.id)
        with lock:
            running -= 1
        return Outcome(one.claimed, End.COMPLETED)

    slots = Slots(1, run, board)
    number = 0
    for count in (8, 1, 5, 2, 7, 1, 8, 3) * 25:
        slots.resize(count)
        slots.add([claimed_run(number + place) for place in range(10)])
        number += 10
    assert eventually(lambda: slots.unwritten == number, 30)
    slots.close()
    assert sorted(ran) == list(range(number))
    assert too_many == []
    assert slots.thread_count == 3


def test_short_tasks_in_many_slots_wait_for_no_lock_of_each_other(board: SlotBoard) -> None:
    """Turns at one lock make a convoy of the slots: five switches of threads per task."""
    app = Vidan()

    @app.task(name="t", source=False)
    def task(run: Run) -> float:
        return 1.5

    around = RunContext(cast("Database", None), cast("DetectorCache", None), lambda: None)

    def run(claimed_run: ClaimedRun, slot: int) -> Outcome:
        with claimed_run.log_context():
            return run_scenario(claimed_run.claimed, app.tasks, claimed_run.control, around)

    number = 4000
    slots = Slots(8, run, board)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    slots.add(map(claimed_run, range(1, number + 1)))
    while slots.unwritten < number:
        time.sleep(0.05)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    assert {one.end for one in slots.outcomes()} == {End.COMPLETED}
    assert switches < number
    slots.close()
