"""`vidan top`: how things stand, in a pipe, as JSON and in a terminal."""

from __future__ import annotations

import json
import signal

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.domain.status import Status


@pytest.fixture
def busy(vidan: Shell, worker: PlayedWorker) -> Shell:
    """One scenario runs, one has failed, two wait, one of them where nobody takes it."""
    vidan("scenario", "create", "--no-check", *(f"/videos/{one}.mp4" for one in "abc"))
    vidan("scenario", "create", "--no-check", "/v/d.mp4", "--queue", "night")
    worker.claim()
    worker.end(Status.FAILED, "broken")
    worker.claim()
    worker.store([0, 1, 2], total=50)
    return vidan


def test_json(busy: Shell) -> None:
    (line,) = busy("top", "--once", "--json").out.splitlines()
    found = json.loads(line)
    assert [worker["name"] for worker in found["workers"]] == ["cpu-0@test"]
    more = {"delayed": 0, "next_due_at": None}
    assert found["queues"] == [
        {"name": "default", "waiting": 1, "running": 1, "failed_lately": 1, **more},
        {"name": "night", "waiting": 1, "running": 0, "failed_lately": 0, **more},
    ]
    (running,) = found["scenarios"]
    assert (running["id"], running["frames_done"], running["frames_total"]) == (2, 3, 50)
    assert (running["worker"], running["status"]) == ("cpu-0@test", "active")


def test_json_goes_on_until_interrupted(busy: Shell) -> None:
    process = busy.start("top", "--json", "--interval", "0.2")
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert first["at"] < second["at"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_a_pipe_gets_it_once(busy: Shell) -> None:
    seen = busy("top")
    assert (seen.code, seen.err) == (0, "")
    assert "\x1b" not in seen.out
    (running,) = [line.split() for line in seen.out.splitlines() if "b.mp4" in line]
    assert running[:4] == ["2", "detect", "b.mp4", "3/50"]


def test_nothing_is_there(vidan: Shell) -> None:
    seen = vidan("top").out
    for words in ("no workers", "no queues", "nothing runs"):
        assert words in seen


def test_numbers_are_whole_in_a_narrow_terminal(busy: Shell) -> None:
    seen = in_terminal(busy, "top", "--once", COLUMNS="60", NO_COLOR="1")
    assert "3/50" in seen
    assert "FRAMES" in seen
    assert " waiting" in seen


def test_a_status_is_a_word_in_a_terminal_and_a_name_in_a_pipe(busy: Shell) -> None:
    in_pipe = busy.run("top", COLUMNS="120").out
    (line,) = [line for line in in_pipe.splitlines() if "b.mp4" in line]
    assert line.split()[-1] == "active"
    seen = in_terminal(busy, "top", "--once", NO_COLOR="1")
    (line,) = [line for line in seen.splitlines() if "b.mp4" in line]
    assert line.split()[-1] == "running"


def test_an_interval_of_nothing_is_refused(vidan: Shell) -> None:
    assert vidan("top", "--interval", "0").code == 2
    assert vidan("top", "--interval", "often").code == 2
