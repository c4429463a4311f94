"""Commands that destroy: they count, ask at a terminal, and want --yes in a script."""

from __future__ import annotations

import os

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.cli.choice import Choice
from vidan.cli.options.filters import FilterOptions
from vidan.db import schema
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import NotAllowedError


@pytest.fixture
def three(vidan: Shell, worker: PlayedWorker) -> tuple[int, int, int]:
    """Completed with 5 frames; stopped; queued: all with the label batch=7."""

    def create() -> int:
        words = ("scenario", "create", "--no-check", "/v/a.mp4", "--label", "batch=7", "-q")
        return int(vidan(*words).out)

    done = create()
    worker.claim()
    worker.store(range(5))
    worker.end(Status.COMPLETED)
    stopped = create()
    vidan("scenario", "stop", stopped)
    return done, stopped, create()


def left(vidan: Shell) -> list[int]:
    return [int(one) for one in vidan("scenario", "list", "-q", "--sort", "id").out.split()]


BY_FILTER = (["delete"], ["start", "--from-beginning"])


@pytest.mark.parametrize("verb", BY_FILTER)
def test_a_script_wants_yes_for_filters(
    vidan: Shell, three: tuple[int, int, int], verb: list[str]
) -> None:
    for words in (["--label", "batch=7"], ["--label", "batch=none"]):
        ended = vidan.run("scenario", *verb, *words, "--json")
        assert (ended.code, ended.out) == (2, "")
        assert ended.error()["hint"] == "add --yes"
    assert left(vidan) == list(three)
    assert vidan("scenario", "show", three[0], "--json").json()["frames_done"] == 5


def test_delete_by_filter_with_yes_skips_what_has_not_ended(
    vidan: Shell, three: tuple[int, int, int]
) -> None:
    ended = vidan.run("scenario", "delete", "--label", "batch=7", "--yes")
    assert (ended.code, ended.out) == (0, f"{three[0]}\n{three[1]}\n")
    assert f"skipped: scenario {three[2]}" in ended.err
    assert left(vidan) == [three[2]]


@pytest.mark.parametrize("answer", ["n", "", "y"])
def test_a_terminal_is_asked_with_a_count(
    vidan: Shell, three: tuple[int, int, int], answer: str
) -> None:
    words = ("scenario", "delete", "--label", "batch=7")
    seen = in_terminal(vidan, *words, typed=f"{answer}\n")
    assert (
        "Delete 2 scenarios and the predictions of 5 frames permanently (1 more have not ended and"
        " will be skipped)? [y/N]" in seen
    )
    assert ("nothing was deleted" in seen) == (answer != "y")
    assert left(vidan) == (list(three) if answer != "y" else [three[2]])


def test_beginning_again_is_asked_too(vidan: Shell, three: tuple[int, int, int]) -> None:
    words = ("scenario", "start", "--from-beginning", "--status", "completed")
    seen = in_terminal(vidan, *words, typed="n\n")
    assert "Start 1 scenario again, deleting the predictions of 5 frames permanently?" in seen
    assert vidan("scenario", "show", three[0], "--json").json()["frames_done"] == 5
    assert vidan.run(*words, "--yes").code == 0
    assert vidan("scenario", "show", three[0], "--json").json()["frames_done"] == 0


def test_ids_and_a_plain_start_need_no_answer(vidan: Shell, three: tuple[int, int, int]) -> None:
    assert vidan.run("scenario", "start", "--status", "inactive").code == 0
    assert vidan.run("scenario", "start", three[0], "--from-beginning").code == 0
    vidan("scenario", "stop", three[0])
    assert vidan.run("scenario", "delete", three[0]).code == 0


def test_what_stopped_matching_while_the_question_stood_is_kept(
    vidan: Shell, database: Database, three: tuple[int, int, int]
) -> None:
    choice = Choice(None, FilterOptions(status=[Status.COMPLETED]))
    choice.filters(database)
    with database.begin() as connection:
        choice.require_match(connection, three[0])
        with pytest.raises(NotAllowedError, match="no longer"):
            choice.require_match(connection, three[1])


# --- the schema


def test_downgrade_is_refused_while_workers_live(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    ended = vidan.run("db", "downgrade", "-1", "--yes")
    assert ended.code == 4
    assert "1 worker running on this database: cpu-0@test" in ended.err
    assert "--force" in ended.err
    assert vidan("db", "check").code == 0
    worker.let_lease_end()
    assert vidan.run("db", "downgrade", "-1").code == 2  # no --yes
    assert vidan("db", "check").code == 0
    seen = in_terminal(vidan, "db", "downgrade", "-1", typed="n\n")
    assert "1 scenario, predictions of 0 frames and 0 dead letters" in seen
    assert schema.HEAD in seen
    assert "nothing was changed" in seen
    assert vidan("db", "check").code == 0
    assert vidan.run("db", "downgrade", "-1", "--yes").code == 0
    assert vidan("db", "check").code == 8
    assert vidan("db", "upgrade").code == 0


def test_downgrade_by_force(vidan: Shell, worker: PlayedWorker, database: Database) -> None:
    assert worker.name
    assert vidan.run("db", "downgrade", "-1", "--yes", "--force").code == 0
    assert vidan("db", "check").code == 8


def test_each_revision_can_be_counted_and_left(bare: Shell, empty_database_url: str) -> None:
    bare.environment["DATABASE_URL"] = empty_database_url
    assert schema.contents(empty_database_url) == schema.Contents()
    schema.upgrade(empty_database_url)
    database = Database(empty_database_url)
    with database.begin() as connection:
        connection.execute(text("INSERT INTO scenarios (frames_done) VALUES (3), (4)"))
    database.close()
    revisions = [line.partition("  ")[0] for line in schema.history()]
    assert [line[:4] for line in schema.steps_down(empty_database_url, "-1")] == revisions[:1]
    assert [line[:4] for line in schema.steps_down(empty_database_url, "base")] == revisions
    two = schema.steps_down(empty_database_url, revisions[2])
    assert [line[:4] for line in two] == revisions[:2]
    assert schema.steps_down(empty_database_url, schema.HEAD) == []
    for _ in revisions:
        assert schema.contents(empty_database_url) == schema.Contents(2, 7)
        assert bare("db", "downgrade", "-1", "--yes").code == 0
    assert schema.contents(empty_database_url) == schema.Contents()
    schema.upgrade(empty_database_url)
    assert "Drop all tables of vidan with 0 scenarios" in in_terminal(
        bare, "db", "downgrade", "base", typed="n\n"
    )


# --- too many processes


@pytest.mark.parametrize("command", [["up"], ["worker"], ["run", "--sample"]])
def test_more_processes_than_the_machine_can_hold_are_refused(
    bare: Shell, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("vidan.detection.cores.quota", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    ended = bare(*command, "--cpus", 1000, "--json")
    assert ended.code == 2
    assert "--cpus 1000 is too many for 2 cores" in ended.error()["error"]
    assert "at most 8" in ended.error()["hint"]
    assert not (bare.folder / "home").exists()
