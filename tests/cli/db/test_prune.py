"""`vidan db prune`: what it asks, what it prints, what the other commands say afterwards."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import date

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import partitions

OLD = date(2024, 1, 1)
NEWER = date(2024, 1, 8)


def stored(vidan: Shell, database: Database, week: date, *, ends: bool = True) -> int:
    """A scenario of a week with three frames; its id."""
    assert vidan("scenario", "create", "--no-check", "/v/a.mp4").code == 0
    worker = PlayedWorker(database)
    scenario_id = worker.claim()
    with database.begin() as connection:
        partitions.ensure_week(connection, week)
        connection.execute(
            text("UPDATE scenarios SET week = :week WHERE id = :id"),
            {"week": week, "id": scenario_id},
        )
    worker.store(range(3))
    if ends:
        worker.end(Status.COMPLETED)
    return scenario_id


def weeks(database: Database) -> list[date]:
    with database.begin() as connection:
        return [week for week in partitions.existing(connection) if week < date(2025, 1, 1)]


def test_weeks_are_dropped_and_told(vidan: Shell, database: Database) -> None:
    stored(vidan, database, OLD)
    stored(vidan, database, NEWER)
    ended = vidan("db", "prune", "--before", "30d", "--yes", "--json")
    assert ended.code == 0
    told = [json.loads(line) for line in ended.out.splitlines()]
    assert [(one["week"], one["scenarios"], one["pruned"]) for one in told] == [
        ("2024-01-01", 1, True),
        ("2024-01-08", 1, True),
    ]
    assert all(one["bytes"] > 0 and one["unfinished"] == 0 for one in told)
    assert weeks(database) == []
    again = vidan("db", "prune", "--before", "30d", "--yes")
    assert (again.code, again.out) == (0, "")
    assert "no week to prune" in again.err


def test_a_dry_run_drops_nothing(vidan: Shell, database: Database) -> None:
    stored(vidan, database, OLD)
    ended = vidan.run("db", "prune", "--before", "2024-02-01", "--dry-run")
    assert ended.code == 0
    assert ended.out.split("\t")[:2] == ["2024-01-01", "1"]
    assert "would be dropped" in ended.err
    assert vidan("db", "prune", "--before", "30d", "--dry-run", "-q").out == "2024-01-01\n"
    assert weeks(database) == [OLD]


def test_weeks_after_the_time_stay(vidan: Shell, database: Database) -> None:
    stored(vidan, database, OLD)
    stored(vidan, database, NEWER)
    assert vidan("db", "prune", "--before", "2024-01-10T00:00+00:00", "--yes").code == 0
    assert weeks(database) == [NEWER]


def test_a_week_that_is_not_done_is_left_and_named(vidan: Shell, database: Database) -> None:
    running = stored(vidan, database, OLD, ends=False)
    stored(vidan, database, NEWER)
    ended = vidan("db", "prune", "--before", "30d", "--yes", "-q")
    assert (ended.code, ended.out) == (0, "2024-01-08\n")
    assert "2024-01-01 is kept" in ended.err
    assert f"vidan scenario stop {running}" in ended.err
    assert weeks(database) == [OLD]


def test_a_script_has_to_say_yes(vidan: Shell, database: Database) -> None:
    stored(vidan, database, OLD)
    refused = vidan.run("db", "prune", "--before", "30d", "--json")
    assert refused.code == 2
    assert refused.error()["hint"] == "add --yes"
    assert weeks(database) == [OLD]


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, []), ("n\n", 1, [OLD])])
def test_a_terminal_is_asked(
    vidan: Shell, database: Database, answer: str, code: int, left: list[date]
) -> None:
    stored(vidan, database, OLD)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        vidan.command("db", "prune", "--before", "30d"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=vidan.environment,
        text=True,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    _, err = process.communicate(timeout=60)
    os.close(ours)
    assert "Drop 1 week of predictions" in err
    assert process.returncode == code
    assert weeks(database) == left


@pytest.mark.parametrize("words", [("db", "prune", "--yes"), ("db", "prune", "--before", "soon")])
def test_a_time_is_wanted(bare: Shell, words: tuple[str, ...]) -> None:
    assert bare(*words).code == 2


@pytest.mark.parametrize(
    "words", [("predictions", "show"), ("predictions", "watch"), ("predictions", "export")]
)
def test_what_is_gone_is_said(vidan: Shell, database: Database, words: tuple[str, ...]) -> None:
    scenario_id = stored(vidan, database, OLD)
    vidan("db", "prune", "--before", "30d", "--yes")
    ended = vidan(*words, scenario_id)
    assert (ended.code, ended.out) == (3, "")
    assert f"the predictions of scenario {scenario_id} were pruned" in ended.err
    assert "--from-beginning" in ended.err


def test_a_pruned_one_is_shown_and_starts_from_the_beginning(
    vidan: Shell, database: Database
) -> None:
    scenario_id = stored(vidan, database, OLD)
    assert vidan("scenario", "show", scenario_id, "--json").json()["pruned"] is False
    vidan("db", "prune", "--before", "30d", "--yes")
    assert "pruned\tyes" in vidan("scenario", "show", scenario_id).out
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET status = 'failed'"))
    for words in (("start",), ("retry",)):
        refused = vidan("scenario", *words, scenario_id)
        assert refused.code == 4
        assert "pruned" in refused.err
        assert f"vidan scenario start {scenario_id} --from-beginning" in refused.err
    started = vidan("scenario", "start", scenario_id, "--from-beginning", "--json")
    assert started.code == 0
    assert started.json()["pruned"] is False
    with database.begin() as connection:
        assert connection.execute(
            text("SELECT week FROM scenarios")
        ).scalar() == partitions.this_week(connection)
