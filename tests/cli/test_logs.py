"""`vidan scenario logs` and `vidan scenario show --traceback`, and the same over HTTP."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.http_interface import client_of
from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import kept_logs
from vidan.protocol.kept_logs import Batch, Line

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)


def keep(database: Database, *messages: str, level: int = 20, cut: int = 0) -> None:
    lines = [Line(AT, 2, level, "shop", message) for message in messages]
    database.retrying(kept_logs.keep, {1: Batch(lines, cut)})


@pytest.fixture
def queued(vidan: Shell) -> Shell:
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    return vidan


def test_logs_are_printed_a_line_each(queued: Shell, database: Database) -> None:
    assert queued("scenario", "logs", 1).out == ""
    keep(database, "begins", "control \x1b[31m", cut=3)
    lines = [Line(AT, 2, 40, "shop", "it failed", "Traceback …\nKeyError: 'a'")]
    database.retrying(kept_logs.keep, {1: Batch(lines)})
    shown = queued("scenario", "logs", 1)
    assert shown.out.splitlines() == [
        "2026-11-29T12:00:00+00:00 INFO    shop: begins",
        "2026-11-29T12:00:00+00:00 INFO    shop: control \N{REPLACEMENT CHARACTER}[31m",
        "2026-11-29T12:00:00+00:00 ERROR   shop: it failed",
        "Traceback …",
        "KeyError: 'a'",
    ]
    assert "3 lines of scenario 1 were cut" in shown.err
    found = [json.loads(line) for line in queued("scenario", "logs", 1, "--json").out.splitlines()]
    assert found[0] == {
        "line": 4,
        "at": "2026-11-29T12:00:00+00:00",
        "level": "info",
        "logger": "shop",
        "message": "begins",
        "epoch": 2,
        "traceback": None,
    }
    assert [one["line"] for one in found] == [4, 5, 6]
    assert queued("scenario", "logs", 1, "--level", "warning").out.startswith(
        "2026-11-29T12:00:00+00:00 ERROR"
    )
    assert queued("scenario", "logs", 1, "--tail", 2, "--level", "info").out.count("shop: ") == 2
    assert queued("scenario", "logs", 1, "--tail", 0).out == ""
    assert queued("scenario", "logs", 2).code == 3
    assert queued("scenario", "logs", 1, "--level", "loud").code == 2


def test_follow_prints_what_comes_until_the_end(
    queued: Shell, worker: PlayedWorker, database: Database
) -> None:
    keep(database, "before")
    worker.claim()

    def end() -> None:
        time.sleep(0.7)
        keep(database, "meanwhile")
        worker.end(Status.COMPLETED)
        time.sleep(0.3)
        keep(database, "late")

    thread = threading.Thread(target=end)
    thread.start()
    shown = queued("scenario", "logs", 1, "--follow")
    thread.join()
    assert shown.code == 0
    assert [line.partition("shop: ")[2] for line in shown.out.splitlines()] == [
        "before",
        "meanwhile",
        "late",
    ]


def test_the_last_traceback_is_shown(queued: Shell, database: Database, tmp_path: Path) -> None:
    none = queued("scenario", "show", 1, "--traceback")
    assert (none.code, none.out) == (0, "")
    assert "scenario 1 has no traceback" in none.err
    assert queued("scenario", "show", 1, "--json").json()["traceback"] is None
    keep(database, "of the task")
    trace = "Traceback (most recent call last):\n  File …\nKeyError: 'a'"
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET traceback = :trace"), {"trace": trace})
    assert queued("scenario", "show", 1, "--traceback").out == f"{trace}\n"
    assert "Traceback" not in queued("scenario", "show", 1).out
    assert queued("scenario", "show", 1, "--json").json()["traceback"] == trace
    assert "traceback" not in queued("scenario", "list", "--json").json()[0]

    web = client_of(Settings(home=tmp_path, database_url=database.url), database)
    assert web.get("/scenario/1/?detail=true").json()["traceback"] == trace
    found = web.get("/scenario/1/logs/").json()
    assert (found["id"], found["cut"]) == (1, 0)
    assert [line["message"] for line in found["lines"]] == ["of the task"]
    assert web.get("/scenario/1/logs/?after=1").json()["lines"] == []
    assert web.get("/scenario/1/logs/?level=error").json()["lines"] == []
    assert web.get("/scenario/9/logs/").status_code == 404
    assert web.get("/scenario/1/logs/?level=loud").status_code == 422
