"""The posts of a supervisor: those whose worker can't start are no end for the others."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from vidan.config import Settings
from vidan.domain.worker import MAX_SLOTS, WorkerOptions
from vidan.processes import lifeline
from vidan.processes.slotboard import Ended, SlotBoard
from vidan.supervisor.post import MAX_FALSE_STARTS
from vidan.supervisor.quarantine import Quarantine
from vidan.supervisor.supervisor import Supervisor


@dataclass
class Played:
    """Stands for a child process; `code` is what it has ended with."""

    code: int | None
    pid: int = 1
    asked: bool = False
    says: Ended | None = None

    def poll(self) -> int | None:
        return self.code

    def close(self) -> None:
        pass

    def terminate(self) -> None:
        self.asked = True

    def kill(self) -> None:
        self.code = -9


@dataclass
class Clock:
    time: float = 0.0

    def monotonic(self) -> float:
        return self.time


HOPELESS = {10: Ended.HOPELESS}

Make = Callable[[Callable[[str], Played]], Supervisor]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made.monotonic)
    return made


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Makes a supervisor of two posts, `first` and `second`, whose children are played."""
    made: list[Supervisor] = []

    def make(start: Callable[[str], Played]) -> Supervisor:
        def spawn(_module: str, arguments: list[str], **_: Any) -> Played:
            played = start(WorkerOptions.from_json(arguments[1]).name)
            if played.says is not None:
                board = SlotBoard(os.dup(int(arguments[-1])), MAX_SLOTS)
                board.ended = played.says
                board.close()
            return played

        monkeypatch.setattr(lifeline, "spawn", spawn)
        monkeypatch.setattr(Quarantine, "keep", lambda _: None)
        settings = Settings(home=tmp_path, database_url="postgresql://nowhere/x")
        made.append(Supervisor(settings, [WorkerOptions("first"), WorkerOptions("second")]))
        return made[-1]

    yield make
    for post in [post for supervisor in made for post in supervisor._posts]:
        if post.board is not None:
            post.board.close()


def rounds(supervisor: Supervisor, clock: Clock, seconds: float) -> None:
    end = clock.time + seconds
    while clock.time < end:
        supervisor.run_once()
        clock.time += 0.5


@pytest.mark.parametrize("code", [1, 10])
def test_a_worker_that_can_not_start_ends_no_other(make: Make, clock: Clock, code: int) -> None:
    """A GPU has fallen off the bus: the other seven work on, and it may come back."""
    healthy = Played(None)
    failed: list[Played] = []

    def start(name: str) -> Played:
        if name == "first":
            return healthy
        failed.append(Played(code if clock.time < 500 else None, says=HOPELESS.get(code)))
        return failed[-1]

    supervisor = make(start)
    first, second = supervisor._posts
    rounds(supervisor, clock, 1)
    assert first.board is not None
    first.board.worker_id = uuid.uuid4()
    rounds(supervisor, clock, 600)
    assert supervisor._exit_code == 0
    assert not healthy.asked
    assert MAX_FALSE_STARTS < len(failed) < 20
    assert cast(object, second.child) is failed[-1]  # it is back


@pytest.mark.parametrize(
    ("code", "starts", "ends"), [(0, 1, 10), (3, 1, 10), (-11, MAX_FALSE_STARTS, 1)]
)
def test_an_app_that_ends_the_process_at_its_import_is_told(
    make: Make, clock: Clock, caplog: pytest.LogCaptureFixture, code: int, starts: int, ends: int
) -> None:
    """`os._exit` would end each further process as well; a signal may be the machine's."""
    started: list[str] = []

    def start(name: str) -> Played:
        started.append(name)
        return Played(code, says=Ended.LOADING)

    supervisor = make(start)
    for post in supervisor._posts:
        post.options = replace(post.options, app="shop:app")
    rounds(supervisor, clock, 60)
    assert started.count("first") == starts
    assert supervisor._exit_code == ends
    assert "worker first ended while it imported --app shop:app: the worker died" in caplog.text


@pytest.mark.parametrize(("code", "starts"), [(1, MAX_FALSE_STARTS), (10, 1)])
def test_where_none_can_start_the_supervisor_ends(
    make: Make, clock: Clock, code: int, starts: int
) -> None:
    started: list[str] = []

    def start(name: str) -> Played:
        started.append(name)
        return Played(code, says=HOPELESS.get(code))

    supervisor = make(start)
    rounds(supervisor, clock, 60)
    assert supervisor._exit_code == code
    assert sorted(started) == ["first"] * starts + ["second"] * starts


def test_what_the_system_refuses_is_tried_again(make: Make, clock: Clock) -> None:
    refused = 0

    def start(_: str) -> Played:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise OSError(errno.EAGAIN, "too many processes")
        return Played(None)

    supervisor = make(start)
    rounds(supervisor, clock, 20)
    assert refused == 2
    assert all(post.child is not None for post in supervisor._posts)


@pytest.mark.parametrize("code", [0, 2, 10, 20, 77, -15])
def test_no_exit_code_makes_a_death_a_leave(make: Make, clock: Clock, code: int) -> None:
    """A task may end the process with any code, that of a worker that was drained included."""
    supervisor = make(lambda _: Played(None))
    rounds(supervisor, clock, 1)
    first, _ = supervisor._posts
    assert first.board is not None
    first.board.worker_id = worker_id = uuid.uuid4()
    first.board.take(3, 42)
    cast("Played", first.child).code = code
    supervisor._next_release = clock.time + 60  # there is no database
    supervisor.run_once()
    (release,) = supervisor._releases
    assert (release.worker_id, release.executing) == (worker_id, [42])
    assert str(code) in release.cause or code < 0
    assert not first.retired


@pytest.mark.parametrize("says", [Ended.LEFT, Ended.RETIRED])
def test_what_has_left_says_so(make: Make, clock: Clock, says: Ended) -> None:
    """Even if the interpreter aborts in its last steps."""
    supervisor = make(lambda _: Played(None))
    rounds(supervisor, clock, 1)
    first, _ = supervisor._posts
    assert first.board is not None
    first.board.worker_id = uuid.uuid4()
    first.board.ended = says
    cast("Played", first.child).code = -6
    supervisor.run_once()
    assert supervisor._releases == []
    assert first.retired is (says is Ended.RETIRED)


@pytest.mark.parametrize("code", [0, 20])
def test_an_app_that_ends_its_process_while_it_is_loaded_is_not_started_for_ever(
    make: Make, clock: Clock, code: int
) -> None:
    started: list[float] = []

    def start(_: str) -> Played:
        started.append(clock.time)
        return Played(code)

    supervisor = make(start)
    rounds(supervisor, clock, 60)
    assert len(started) == 2 * MAX_FALSE_STARTS
    assert supervisor._exit_code != 0
