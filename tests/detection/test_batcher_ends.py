"""A scenario that ends while its frames wait or are in a call."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.support.gate import PATIENCE, Gate, held, no_clock, submit, values
from tests.support.processes import eventually
from vidan.detection.batcher import Batcher
from vidan.errors import HandOver


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
        except BaseException as error:  # tests look at all errors
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
    """Else the clock of the slot's next scenario would run for this one's call."""
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
