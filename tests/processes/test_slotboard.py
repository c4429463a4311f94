"""The page of memory that a worker shares with its supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidan.processes.slotboard import Call, SlotBoard

CHILD = """
import os, signal, sys, uuid
from vidan.processes.slotboard import Call, SlotBoard

board = SlotBoard(int(sys.argv[1]), 3)
board.worker_id = uuid.UUID(sys.argv[2])
board.database_answered()
board.take(0, 2**62)
board.take(2, 7)
board.take(1, 5)
board.leave(1)
board.mark(2, Call.DETECTOR)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def board() -> Iterator[SlotBoard]:
    made = SlotBoard.create(3)
    yield made
    made.close()


def test_a_new_board_tells_of_nobody(board: SlotBoard) -> None:
    assert board.worker_id is None
    assert board.executing() == []
    assert board.stalled(0.0) is None


def test_the_parent_reads_what_a_killed_child_was_at(board: SlotBoard) -> None:
    worker_id = uuid.uuid4()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(board.fd), str(worker_id)], pass_fds=[board.fd]
    )
    assert child.returncode == -9
    assert board.worker_id == worker_id
    assert board.executing() == [2**62, 7]
    assert 0 <= board.database_silent_for() < 30
    assert board.stalled(0.0) == (7, Call.DETECTOR)


def test_a_call_stalls_only_while_it_lasts(board: SlotBoard) -> None:
    board.take(1, 42)
    assert board.stalled(0.0) is None
    with board.inside(1, Call.DECODER):
        time.sleep(0.02)
        assert board.stalled(0.01) == (42, Call.DECODER)
        assert board.stalled(10.0) is None
    assert board.stalled(0.0) is None


def test_a_call_that_raised_is_over(board: SlotBoard) -> None:
    board.take(0, 1)
    with pytest.raises(ValueError, match="x"), board.inside(0, Call.DETECTOR):
        raise ValueError("x")
    assert board.stalled(0.0) is None


def test_the_next_run_of_a_slot_is_not_taken_for_one_that_stalled(
    board: SlotBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call ends, and the next run begins, between two looks."""
    board.take(0, 1)
    board.mark(0, Call.DETECTOR)
    time.sleep(0.02)
    since = SlotBoard._since

    def then_the_next(self: SlotBoard, slot: int, call: Call) -> float:
        found = since(self, slot, call)
        if found:
            board.leave(0)
            board.take(0, 2)
        return found

    monkeypatch.setattr(SlotBoard, "_since", then_the_next)
    assert board.stalled(0.01) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a file")
def test_it_does_not_stand_on_a_disk_that_may_be_full(board: SlotBoard) -> None:
    assert "/memfd:" in str(Path(f"/proc/self/fd/{board.fd}").readlink())


def test_as_a_file_it_has_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Touching a hole for which a full disk has no block kills the process."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    board = SlotBoard.create(100)
    assert os.fstat(board.fd).st_blocks > 0
    board.take(99, 7)
    assert board.executing() == [7]
    board.close()


def test_progress_counts_from_the_last_mark(board: SlotBoard) -> None:
    board.take(0, 9)
    board.mark(0, Call.PROGRESS)
    time.sleep(0.03)
    assert board.stalled(0.02) == (9, Call.PROGRESS)
    board.mark(0, Call.PROGRESS)
    assert board.stalled(30.0) is None


def test_clocks_of_one_scenario_are_not_left_to_the_next(board: SlotBoard) -> None:
    board.take(0, 9)
    board.mark(0, Call.PROGRESS)
    board.leave(0)
    assert board.executing() == []
    assert board.stalled(0.0) is None
    board.take(0, 10)
    assert board.stalled(0.0) is None


def test_slots_do_not_touch_each_other(board: SlotBoard) -> None:
    for slot in range(3):
        board.take(slot, slot + 1)
        board.mark(slot, Call.DECODER)
    board.leave(1)
    assert board.executing() == [1, 3]
    assert board.worker_id is None


def test_the_number_of_slots_stands_beside_the_rest(board: SlotBoard) -> None:
    worker_id = uuid.uuid4()
    assert board.in_use == 0
    board.worker_id = worker_id
    board.database_answered()
    board.take(0, 7)
    board.in_use = 2**40
    assert (board.in_use, board.worker_id, board.executing()) == (2**40, worker_id, [7])
    assert 0 <= board.database_silent_for() < 30


def test_a_run_is_overdue_once_its_time_is_up(board: SlotBoard) -> None:
    board.take(1, 42)
    assert board.overdue() is None
    board.limit(1, 0.5)
    assert board.overdue() is None
    time.sleep(0.6)
    assert board.overdue() == (42, 0.5)
    assert board.stalled(0.0) is None


def test_a_time_limit_ends_with_its_run(board: SlotBoard) -> None:
    board.take(0, 1)
    board.limit(0, 1e-9)
    board.take(2, 3)
    board.leave(0)
    assert board.overdue() is None
    board.take(0, 2)
    time.sleep(0.001)
    assert board.overdue() is None
    board.limit(0, 1e-9)
    time.sleep(0.001)
    assert board.overdue() == (2, 1e-9)
