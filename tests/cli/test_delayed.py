"""What is told of a scenario that waits: for its time, for its next try, for its turn."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import execute
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.db.session import Database

CREATE = ("scenario", "create", "--no-check", "/videos/a.mp4")


def test_a_delayed_one_tells_when_it_is_due(vidan: Shell) -> None:
    created = vidan(*CREATE, "--after", "2h")
    assert "due in 2 h" in created.err
    vidan(*CREATE)
    late, due = (vidan("scenario", "show", one, "--json").json() for one in (1, 2))
    in_two_hours = datetime.now(UTC) + timedelta(hours=2)
    assert abs(datetime.fromisoformat(late["due_at"]) - in_two_hours) < timedelta(minutes=2)
    assert (late["queue_position"], late["next_try_at"], late["retries_left"]) == (None, None, 3)
    assert (due["queue_position"], due["ran_seconds"]) == (1, None)
    assert due["waited_seconds"] >= 0
    listed = vidan("scenario", "list", "--json", "--sort", "id").json()
    assert [one["queue_position"] for one in listed] == [None, 1]
    piped = [
        line.split("\t") for line in vidan("scenario", "list", "--sort", "id").out.splitlines()
    ]
    assert datetime.fromisoformat(piped[0][8]).tzinfo is not None
    assert piped[1][8] == "#1"
    seen = in_terminal(vidan, "scenario", "list")
    assert "NEXT" in seen and "#1" in seen


def test_waiting_tells_what_is_waited_for(vidan: Shell, database: Database) -> None:
    vidan(*CREATE, "--after", "2h")
    ended = vidan("scenario", "wait", 1, "--timeout", "0s", "--json")
    assert ended.code == 7
    assert re.search(r"scenario 1 is due at \S+ \(in 2 h\)", ended.err)
    assert ended.json()["due_at"]
    execute(database, "UPDATE scenarios SET attempts = 2")
    again = vidan("scenario", "wait", 1, "--timeout", "0s")
    assert re.search(r"it is tried again at \S+ \(in .*\), 1 retry left", again.err)
    execute(database, "UPDATE scenarios SET not_before = now()")
    assert (
        "number 1 of those due in queue default"
        in vidan("scenario", "wait", 1, "--timeout", "0s").err
    )


@pytest.mark.parametrize("at", ["2020-01-01", "1969-12-31T23:00+00:00"])
def test_a_time_that_has_passed_is_told(vidan: Shell, at: str, worker: PlayedWorker) -> None:
    ended = vidan(*CREATE, "--at", at)
    assert (ended.code, ended.out) == (0, "1\n")
    assert re.search(r"--at \S+ has passed: it is due at once", ended.err)
    assert worker.claim() == 1


def test_a_terminal_shows_when_it_is_due_as_all_other_times(vidan: Shell) -> None:
    local = r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d CES?T"
    zone = {"TZ": "Europe/Berlin"}
    past = in_terminal(vidan, *CREATE, "--at", "2020-01-01", **zone)
    assert re.search(rf"--at {local} has passed", past)
    later = in_terminal(vidan, *CREATE, "--at", "2100-01-01", **zone)
    assert re.search(rf"due at {local} \(in", later)
    waited = in_terminal(vidan, "scenario", "wait", 2, "--timeout", "0s", **zone)
    assert re.search(rf"scenario 2 is due at {local} \(in", waited)
    assert re.search(rf"default +2 .* {local}", in_terminal(vidan, "top", "--once", **zone))


def test_top_tells_what_is_delayed(vidan: Shell, worker: PlayedWorker) -> None:
    vidan(*CREATE)
    worker.claim()
    vidan(*CREATE, "--after", "2h")
    vidan(*CREATE)
    found = vidan("top", "--once", "--json").json()
    (queue,) = found["queues"]
    assert (queue["waiting"], queue["delayed"]) == (2, 1)
    assert datetime.fromisoformat(queue["next_due_at"]) > datetime.now(UTC)
    (running,) = found["scenarios"]
    assert running["retries_left"] == 3
    assert running["ran_seconds"] is not None
