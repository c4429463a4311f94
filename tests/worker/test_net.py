"""Whatever comes out of a run ends that run, and never the thread of its slot."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.processes import eventually
from tests.worker.test_slots import claimed_run
from vidan.db.session import Database
from vidan.detection.cache import DetectorCache
from vidan.domain.retry import Retry
from vidan.errors import HandOver, RunInterrupted
from vidan.processes.slotboard import SlotBoard
from vidan.run.context import RunContext
from vidan.run.run import Run
from vidan.tasks.app import Vidan
from vidan.worker.execution import End, Outcome, run_scenario
from vidan.worker.slots import ClaimedRun, Slots

CONTEXT = RunContext(cast("Database", None), cast("DetectorCache", None), lambda: None)


class Own(BaseException):
    """A BaseException of the task's own."""


class WordsExit(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class WordsAreNone(BaseException):
    def __str__(self) -> str:
        return cast("str", 5)


class OddText(str):
    def split(self, *_: object, **__: object) -> list[str]:
        raise KeyboardInterrupt


class WordsAreOdd(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class WordlessRetry(Retry):
    def __str__(self) -> str:
        raise Own


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise Own


class NoName(Exception, metaclass=Nameless):
    pass


class NoClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise Own


class Unequal(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise Own


EVIL: tuple[BaseException, ...] = (
    Own("mine"),
    WordsExit(),
    WordsAreNone(),
    WordsAreOdd(),
    WordlessRetry(),
    NoName(),
    NoClass(),
    Unequal(),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(),
    SystemExit(0),
    BaseExceptionGroup("several", [Own(), KeyboardInterrupt()]),
)

app = Vidan()


@app.task(name="t", source=False)
def task(run: Run) -> int:
    """Raise what stands at the place of the scenario's id; after those, return it."""
    if run.scenario_id < len(EVIL):
        raise EVIL[run.scenario_id]
    return run.scenario_id


def execute(run: ClaimedRun, slot: int) -> Outcome:
    return run_scenario(run.claimed, app.tasks, run.control, CONTEXT)


@pytest.fixture
def board() -> Iterator[SlotBoard]:
    made = SlotBoard.create(8)
    yield made
    made.close()


def outcomes(slots: Slots, count: int) -> dict[int, Outcome]:
    assert eventually(lambda: slots.unwritten == count, 20)
    return {one.claimed.fence.scenario_id: one for one in slots.outcomes()}


@pytest.mark.parametrize("number", range(len(EVIL)), ids=[type.__repr__(type(e)) for e in EVIL])
def test_the_next_run_has_the_same_thread(board: SlotBoard, number: int) -> None:
    slots = Slots(1, execute, board)
    (thread,) = slots._threads.values()
    slots.add([claimed_run(number), claimed_run(100)])
    found = outcomes(slots, 2)
    assert found[number].end is End.ERROR
    assert found[number].error
    assert (found[100].end, found[100].result) == (End.COMPLETED, "100")
    assert thread.is_alive()
    assert board.executing() == []
    slots.close()


def test_what_stands_around_a_run_may_fail_too(board: SlotBoard) -> None:
    """Such as a lease that is not there: no code of the task has been called."""

    def failing(run: ClaimedRun, slot: int) -> Outcome:
        if run.id == 1:
            raise NoName
        return execute(run, slot)

    slots = Slots(1, failing, board)
    slots.add([claimed_run(1), claimed_run(100)])
    found = outcomes(slots, 2)
    assert (found[1].end, found[100].end) == (End.ERROR, End.COMPLETED)
    assert "NoName" in str(found[1].error)
    assert board.executing() == []
    slots.forget(one.claimed.fence for one in slots.outcomes())
    assert slots.free == 1
    slots.close()


def test_an_exception_that_another_thread_sends_late_hits_no_later_run(board: SlotBoard) -> None:
    """Libraries for time-outs send it, and the call that it was for has ended meanwhile."""
    slots = Slots(1, execute, board)
    (thread,) = slots._threads.values()
    for round_ in range(5):
        sent = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(cast("int", thread.ident)), ctypes.py_object(Own)
        )
        assert sent == 1
        slots.add([claimed_run(100 + round_)])
        assert outcomes(slots, round_ + 1)[100 + round_].end is End.COMPLETED
    assert thread.is_alive()
    slots.close()


def test_a_task_group_hides_no_interruption() -> None:
    """`async with TaskGroup()` of a task wraps what ends the run."""
    grouped = Vidan()

    @grouped.task(name="t", source=False)
    def groups(run: Run) -> None:
        try:
            run.progress()
        except RunInterrupted as error:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", [error, Own()]) from None

    run = claimed_run(1)
    begun = threading.Event()

    def progress(self: Run) -> None:
        begun.set()
        run.control.interrupt(HandOver("the worker is leaving"))
        run.control.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "progress", progress)
        outcome = run_scenario(run.claimed, grouped.tasks, run.control, CONTEXT)
    assert begun.is_set()
    assert (outcome.end, outcome.error) == (End.HANDED_OVER, "the worker is leaving")
