"""docs/sql shows each statement that several places put together, exactly as it is sent.

A statement is captured while its function runs, formatted, and compared with docs/sql/NAME.sql.
With VIDAN_WRITE_SQL=1 in the environment the test writes the files first: do so after a change.
"""

from __future__ import annotations

import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from tests.support.played_worker import PlayedWorker, all_definitions
from tests.support.readable_sql import readable, words
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import (
    announcements,
    claims,
    commits,
    creation,
    expiry,
    heartbeats,
    lifecycle,
    tasks,
)
from vidan.protocol.claims import Claimant
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.services import events, overview, scenarios, steering, workers

FOLDER = Path(__file__).parents[2] / "docs" / "sql"
WRITE = "VIDAN_WRITE_SQL"
EXPLAINED = "-- In psql, give each named parameter a value (\\set name value) before EXPLAIN."
VIDEO = NewScenario(source="/videos/clip.mp4")
CAPPED = tasks.TaskSpec("capped", {}, needs_source=False, concurrency=3)


@dataclass(frozen=True)
class World:
    """A transaction, and a worker that holds one scenario while two others wait."""

    connection: Connection
    worker: PlayedWorker

    @property
    def fence(self) -> Fence:
        assert self.worker.fence is not None
        return self.worker.fence

    @property
    def missing_fence(self) -> Fence:
        return self.fence._replace(epoch=99)

    def claim(self, free: int, ahead: int, *capped: str) -> object:
        names = ("detect", CAPPED.name)
        taken = all_definitions(self.connection, names)
        claimant = Claimant(
            self.worker.id, "w", ("default",), names, capped=capped, definitions=taken
        )
        return claims.claim(self.connection, claimant, free, ahead=ahead)

    def ask_to_stop(self) -> None:
        assert steering.stop(self.connection, self.fence.scenario_id)


@dataclass(frozen=True)
class Shown:
    """A statement: what it does, which function sends it, how to have it sent.

    `pattern` tells it from the other statements that are sent at the same time.
    """

    does: str
    by: str
    send: Callable[[World], object]
    pattern: str
    before: Callable[[World], object] = lambda _: None


def start(world: World) -> object:
    return lifecycle.start(world.connection, [world.missing_fence], actor="w")


def finish(world: World) -> object:
    ending = lifecycle.Ending(world.fence, Status.COMPLETED)
    return lifecycle.finish(world.connection, [ending], actor="w")


def commit(world: World) -> object:
    row = commits.Row(0, 0, [0], [0.9], [1.0, 2.0, 3.0, 4.0])
    batch = commits.Batch(0, 1, None, "{}", ["person"], [row])
    return commits.commit(world.connection, world.fence, batch)


def beat(world: World, *, count: bool) -> object:
    return heartbeats.beat(world.connection, world.worker.id, state="busy", fps=9.5, count=count)


def end_lease(world: World) -> None:
    world.connection.execute(text("UPDATE workers SET lease_until = '-infinity'"))


def end_scenario(world: World) -> None:
    assert finish(world)


def expire(world: World) -> object:
    return expiry.expire(world.connection, actor="orchestrator")


STATEMENTS = {
    "create": Shown(
        "Create scenarios, with their first transitions",
        "vidan.protocol.creation.insert",
        lambda w: creation.create(w.connection, VIDEO),
        "INSERT INTO scenarios",
    ),
    "create_with_followups": Shown(
        "Create scenarios on whose end others follow",
        "vidan.protocol.creation.insert",
        lambda w: creation.create(w.connection, NewScenario(source="/a.mp4", then=[VIDEO])),
        "INSERT INTO scenarios",
    ),
    "announce": Shown(
        "Take the scenarios whose announcement is due",
        "vidan.protocol.announcements.take_due",
        lambda w: announcements.take_due(w.connection),
        "UPDATE scenarios",
    ),
    "claim": Shown(
        "Claim due scenarios for the free slots of a worker that has no source",
        "vidan.protocol.claims.claim",
        lambda w: w.claim(4, 0),
        "UPDATE scenarios",
    ),
    "claim_ahead": Shown(
        "Claim due scenarios for the free slots, and short ones to wait for their turn",
        "vidan.protocol.claims.claim",
        lambda w: w.claim(4, 8),
        "UPDATE scenarios",
    ),
    "claim_capped": Shown(
        "Claim due scenarios, of a capped task as many as there is room for",
        "vidan.protocol.claims.claim",
        lambda w: w.claim(4, 0, CAPPED.name),
        "UPDATE scenarios",
    ),
    "start": Shown(
        "Set claimed scenarios active",
        "vidan.protocol.lifecycle.start",
        start,
        "UPDATE scenarios",
    ),
    "start_again": Shown(
        "Read which of the scenarios that could not be set active are still the worker's",
        "vidan.protocol.lifecycle.start",
        start,
        r"^\s*SELECT s\.\*",
    ),
    "commit": Shown(
        "Move checkpoint and state under the fence (COPY of the predictions follows)",
        "vidan.protocol.commits.commit",
        commit,
        "UPDATE scenarios",
    ),
    "shut_down": Shown(
        "Note that a run which was asked to stop is shutting down",
        "vidan.protocol.lifecycle.shut_down",
        lambda w: lifecycle.shut_down(w.connection, w.fence, actor="w"),
        "UPDATE scenarios",
        before=World.ask_to_stop,
    ),
    "finish": Shown(
        "End runs as completed, inactive or failed",
        "vidan.protocol.lifecycle.finish",
        finish,
        "UPDATE scenarios",
    ),
    "fail": Shown(
        "Charge an error to a run: it waits for its retry, or has failed",
        "vidan.protocol.lifecycle.fail",
        lambda w: lifecycle.fail(w.connection, w.fence, "broken", actor="w"),
        "UPDATE scenarios",
    ),
    "hand_over": Shown(
        "Hand scenarios over to other workers, without charging them",
        "vidan.protocol.lifecycle.hand_over",
        lambda w: lifecycle.hand_over(w.connection, [w.fence], reason="leaves", actor="w"),
        "UPDATE scenarios",
    ),
    "heartbeat": Shown(
        "Renew a worker's lease and read what it holds",
        "vidan.protocol.heartbeats.beat",
        lambda w: beat(w, count=False),
        "UPDATE workers",
    ),
    "heartbeat_with_count": Shown(
        "Renew a worker's lease, read what it holds, and count the living workers",
        "vidan.protocol.heartbeats.beat",
        lambda w: beat(w, count=True),
        "UPDATE workers",
    ),
    "expire_any": Shown(
        "Ask whether any lease has ended",
        "vidan.protocol.expiry.any_ended",
        lambda w: expiry.any_ended(w.connection),
        r"SELECT now\(\)",
    ),
    "expire_lock": Shown(
        "Lock the scenarios that are held under leases that have ended",
        "vidan.protocol.expiry.expire",
        expire,
        "FOR NO KEY UPDATE SKIP LOCKED",
        before=end_lease,
    ),
    "expire": Shown(
        "Release the locked scenarios, and charge those that killed their worker",
        "vidan.protocol.expiry.expire",
        expire,
        "UPDATE scenarios",
        before=end_lease,
    ),
    "request_stop": Shown(
        "Ask a scenario to stop, for a user",
        "vidan.services.steering.stop",
        World.ask_to_stop,
        "UPDATE scenarios",
    ),
    "request_start": Shown(
        "Start a scenario that has ended, for a user",
        "vidan.services.steering.start",
        lambda w: steering.start(w.connection, w.fence.scenario_id, from_beginning=True),
        "INSERT INTO transitions",
        before=end_scenario,
    ),
    "publish_tasks": Shown(
        "Enter a worker's tasks, or bring them up to date",
        "vidan.protocol.tasks.publish",
        lambda w: tasks.publish(w.connection, [CAPPED]),
        "INSERT INTO tasks",
    ),
    "read_events": Shown(
        "Read transitions that have become known since a position",
        "vidan.services.events.read",
        lambda w: events.read(w.connection, events.Position(), events.Wanted(task="detect")),
        "FROM transitions",
    ),
    "list_scenarios": Shown(
        "Read a page of scenarios by status, the newest first",
        "vidan.services.scenarios.find",
        lambda w: scenarios.find(w.connection, status=[Status.ACTIVE], task="detect"),
        "FROM scenarios",
    ),
    "list_workers": Shown(
        "Read the living workers and what each one holds",
        "vidan.services.workers.find",
        lambda w: workers.find(w.connection),
        "FROM workers",
    ),
    "list_running": Shown(
        "Read the first scenarios that workers hold",
        "vidan.services.overview.read",
        lambda w: overview.read(w.connection),
        r"w\.name AS worker",
    ),
}


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    """A worker that holds one of three scenarios."""
    with database.begin() as connection:
        tasks.publish(connection, [CAPPED])
        news = [VIDEO, VIDEO, NewScenario(task=CAPPED.name)]
        creation.create_many(connection, news)
    found = PlayedWorker(database)
    found.claim()
    return found


def sent(shown: Shown, world: World) -> tuple[str, Mapping[str, Any]]:
    """The statement as the driver takes it, and its parameters."""
    found: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_more: Any) -> None:
        if re.search(shown.pattern, sql):
            found.append((sql, parameters))

    shown.before(world)
    event.listen(world.connection, "before_cursor_execute", note)
    shown.send(world)
    event.remove(world.connection, "before_cursor_execute", note)
    assert found, f"{shown.by} sent no statement that matches {shown.pattern!r}"
    return found[0]


def as_text(sql: str) -> str:
    """The driver's statement with its parameters as `:name`."""
    return re.sub(r"%\((\w+)\)s", r":\1", sql).replace("%%", "%")


@pytest.mark.parametrize("name", STATEMENTS)
def test_docs_show_what_is_sent(database: Database, worker: PlayedWorker, name: str) -> None:
    shown = STATEMENTS[name]
    assert callable(pkgutil.resolve_name(shown.by))
    path = FOLDER / f"{name}.sql"
    with database.begin() as connection:
        statement, parameters = sent(shown, World(connection, worker))
        plain = as_text(statement)
        wanted = f"-- {shown.does}.\n-- Sent by {shown.by}.\n{EXPLAINED}\n{readable(plain)}"

        assert words(readable(plain)) == [*words(plain.strip()), ";"]
        explained = connection.execute(text(f"EXPLAIN {wanted}"), parameters)
        assert explained.scalars().all()
    if os.environ.get(WRITE):
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted, encoding="utf-8")
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    assert there == wanted, (
        f"docs/sql/{name}.sql differs from what is sent: set {WRITE}=1, run again"
    )


def test_docs_show_no_other_statement() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.sql" for name in STATEMENTS}
