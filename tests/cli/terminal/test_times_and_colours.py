"""Times are local in a terminal and ISO elsewhere; statuses and states have colours in it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from sqlalchemy import text as statement

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.cli.terminal import text
from vidan.db.session import Database
from vidan.domain.schedule import Schedule
from vidan.domain.status import Status
from vidan.protocol import tasks
from vidan.services import dead_letters, schedules
from vidan.services.dead_letters import NewLetter

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+\d\d:\d\d")
LOCAL = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d IST")


@pytest.fixture
def used(vidan: Shell, worker: PlayedWorker, database: Database) -> Shell:
    """One scenario has failed, one runs, one waits; there are a dead letter and a schedule."""
    vidan("scenario", "create", "--no-check", *(f"/v/{one}.mp4" for one in "abc"))
    worker.claim()
    worker.end(Status.FAILED, "broken")
    worker.claim()
    worker.store([0], total=50)
    letter = NewLetter("scenarios", 0, 0, 1, key=None, payload=b"x", error="not JSON")
    with database.begin() as connection:
        dead_letters.add(connection, [letter])
        tasks.publish(connection, [tasks.TaskSpec("tidy", {}, needs_source=False)])
        schedules.publish(connection, "app", [("tidy", Schedule("0 6 * * *", name="tidy"))])
    return vidan


SHOW_TIMES = (
    "scenario list",
    "scenario show 1",
    "scenario history 1",
    "workers list",
    "dead list",
    "dead show 1",
    "schedules list",
    "schedules show tidy",
    "events --no-follow",
    "top --once",
)


@pytest.mark.parametrize("command", SHOW_TIMES)
def test_times_are_local_in_a_terminal_and_iso_elsewhere(used: Shell, command: str) -> None:
    words = command.split()

    seen = in_terminal(used, *words, TZ="Asia/Kolkata", COLUMNS="220", NO_COLOR="1")

    assert LOCAL.search(seen), seen
    assert not ISO.search(seen), seen
    for output in (used(*words).out, used(*words, "--json").out):
        assert ISO.search(output), output
        assert "IST" not in output
    assert ISO.search(in_terminal(used, *words, "--json", TZ="Asia/Kolkata"))


def test_a_time_is_the_same_moment_however_it_is_shown() -> None:
    at = datetime(2026, 7, 1, 20, 30, tzinfo=UTC)
    local = at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")

    assert text.for_people(at) == text.field_for_people("seen_at", at.isoformat()) == local
    assert text.plain(at) == "2026-07-01T20:30:00+00:00"
    assert text.field_for_people("seen_at", None) == "-"
    assert text.field_for_people("name_at", "no time") == "no time"
    assert text.field_for_people("name", at.isoformat()) == at.isoformat()


def test_statuses_have_colours_in_a_terminal_only(used: Shell, database: Database) -> None:
    busy = "UPDATE workers SET state = 'busy', lease_until = now() + interval '1 h'"
    with database.begin() as connection:
        connection.execute(statement(busy))
    for command, painted in {
        "scenario list": ("\x1b[31mfailed", "\x1b[32mrunning", "\x1b[36mqueued"),
        "scenario show 1": ("\x1b[31mfailed",),
        "scenario history 1": ("\x1b[31mfailed",),
        "workers list": ("\x1b[32mbusy",),
        "top --once": ("\x1b[32mbusy", "\x1b[32mrunning"),
        "doctor": ("\x1b[32mok", "\x1b[33mwarn"),
    }.items():
        words = command.split()
        seen = in_terminal(used, *words, COLUMNS="160")
        for one in painted:
            assert one in seen, (command, seen)
        for plain in (
            in_terminal(used, *words, NO_COLOR="1"),
            in_terminal(used, *words, TERM="dumb"),
            used(*words).out,
        ):
            assert not re.search(r"\x1b\[[\d;]*3\dm", plain), (command, plain)


def test_a_name_that_reads_like_a_status_has_no_colour(vidan: Shell) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4", "--name", "failed")

    assert "\x1b[31mfailed" not in in_terminal(vidan, "scenario", "list")


def test_every_status_and_state_has_a_colour() -> None:
    assert set(text.STATUS_WORDS.values()) <= set(text.COLOURS)
    assert set(text.COLOURS.values()) == set(text._ANSI)
