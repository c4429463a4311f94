"""`vidan doctor --ack`: what was seen is not told again, and what failed afterwards is."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import acknowledged, dead_letters, steering
from vidan.services.dead_letters import NewLetter


def findings(vidan: Shell, *words: str) -> dict[str, dict[str, Any]]:
    """The findings about failures."""
    found = vidan("doctor", "--json", *words).json()
    return {one["check"]: one for one in found if one["check"] in ("failed", "dead letters")}


def states(vidan: Shell, *words: str) -> list[str]:
    return [one["state"] for one in findings(vidan, *words).values()]


def fail(database: Database, worker: PlayedWorker, count: int = 1) -> None:
    for _ in range(count):
        with database.begin() as connection:
            creation.create(connection, NewScenario(source="/v/a.mp4"))
        worker.claim()
        worker.end(Status.FAILED, "unreadable")


def letter(database: Database, offset: int) -> None:
    one = NewLetter("scenarios", 0, offset, 1, key=None, payload=b"x", error="not JSON")
    with database.begin() as connection:
        dead_letters.add(connection, [one])


def test_what_was_seen_is_ok_until_something_else_fails(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    fail(database, worker, 3)
    letter(database, 0)
    assert states(vidan) == ["warn", "warn"]
    assert "`vidan doctor --ack`" in findings(vidan)["failed"]["remedy"]

    marked = findings(vidan, "--ack")

    assert marked["failed"]["state"] == marked["dead letters"]["state"] == "ok"
    assert marked["failed"]["finding"].startswith("3 since yesterday, the last is scenario 3:")
    assert states(vidan) == states(vidan, "--ack") == ["ok", "ok"]
    fail(database, worker)
    assert findings(vidan)["failed"]["finding"] == "1 since yesterday, the last is scenario 4"
    letter(database, 1)
    assert findings(vidan)["dead letters"]["finding"] == "1 since yesterday, the last is 2"
    assert states(vidan, "--ack") == ["ok", "ok"]


def test_a_scenario_that_fails_again_is_told_again(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    fail(database, worker)
    assert states(vidan, "--ack") == ["ok", "ok"]
    with database.begin() as connection:
        steering.request(connection, 1, Status.INIT_STARTUP, actor="test")
    assert findings(vidan)["failed"]["state"] == "ok"
    worker.claim()
    worker.end(Status.FAILED, "unreadable")
    assert findings(vidan)["failed"]["state"] == "warn"


def test_marks_do_not_pile_up(
    vidan: Shell, worker: PlayedWorker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledged, "COUNTED", 2)  # failures that are looked at
    fail(database, worker, 5)
    assert states(vidan, "--ack") == states(vidan) == ["ok", "ok"]
    with database.begin() as connection:
        connection.execute(text("UPDATE acknowledged SET at = now() - interval '25 h'"))
        connection.execute(text("UPDATE scenarios SET ended_at = now() - interval '25 h'"))
    fail(database, worker)
    assert states(vidan, "--ack") == ["ok", "ok"]
    with database.begin() as connection:
        marks = connection.execute(text("SELECT failure, id FROM acknowledged")).all()
    assert [tuple(one) for one in marks] == [("scenario", 6)]
