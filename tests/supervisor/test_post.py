"""The posts of a supervisor: those whose worker can't start are no end for the others."""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from vidan.config import Settings
from vidan.domain.worker import WorkerOptions
from vidan.processes import lifeline
from vidan.supervisor.post import MAX_FALSE_STARTS
from vidan.supervisor.quarantine import Quarantine
from vidan.supervisor.supervisor import Supervisor


@dataclass
class Played:
    """Stands for a child process; `code` is what it has ended with."""

    code: int | None
    pid: int = 1
    asked: bool = False

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
            return start(WorkerOptions.from_json(arguments[1]).name)

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
        failed.append(Played(code if clock.time < 500 else None))
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


@pytest.mark.parametrize(("code", "starts"), [(1, MAX_FALSE_STARTS), (10, 1)])
def test_where_none_can_start_the_supervisor_ends(
    make: Make, clock: Clock, code: int, starts: int
) -> None:
    started: list[str] = []

    def start(name: str) -> Played:
        started.append(name)
        return Played(code)

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
