"""Rows that nobody but a hand with SQL makes: every reader shows them, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, IntegrityError

from tests.support.http_interface import client_of
from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import KeyTaken
from vidan.protocol import creation, expiry, groups, tasks
from vidan.protocol.creation import NewScenario
from vidan.run.run import Run
from vidan.services import (
    diagnosis,
    events,
    overview,
    scenarios,
    schedules,
    versions,
    workers,
)
from vidan.tasks.app import Vidan
from vidan.worker.worker import Worker

HUGE = '{"e": 1e5000}'
DEEP = '{"a":' * 3000 + "1" + "}" * 3000

ODD_JSON = st.sampled_from(
    [HUGE, DEEP, "{}", '{"a": -0.0}', '{"a": 1e400}', '{"a": [null, {"": "\\u001b"}]}', "3", "[]"]
)
ODD_TIME = st.sampled_from(["infinity", "-infinity", "20000-01-01", "4000-01-01 BC", "now"])
ODD_TEXT = st.sampled_from(["", "\x1b[31m", "http://[::1", "x" * 100_000, "\u202e", "file://%zz"])
ODD_NUMBER = st.sampled_from(["NaN", "Infinity", "-Infinity", "-1", "0", "1e308", "1"])

CHANGES = st.one_of(
    st.tuples(st.sampled_from(["params", "labels", "state", "result", "source_info"]), ODD_JSON),
    st.tuples(
        st.sampled_from(["created_at", "started_at", "ended_at", "not_before", "announce_at"]),
        ODD_TIME,
    ),
    st.tuples(st.sampled_from(["source", "name", "error", "queue", "task"]), ODD_TEXT),
    st.tuples(st.sampled_from(["time_limit", "soft_time_limit"]), ODD_NUMBER),
    st.tuples(
        st.sampled_from(["label_names", "notes"]), st.sampled_from(["{NULL}", '{"",""}', "{a}"])
    ),
    st.tuples(st.sampled_from(["status"]), st.sampled_from(["odd", "failed", "completed"])),
)
TYPES = {
    **dict.fromkeys(["params", "labels", "state", "result", "source_info"], "jsonb"),
    **dict.fromkeys(
        ["created_at", "started_at", "ended_at", "not_before", "announce_at"], "timestamptz"
    ),
    **dict.fromkeys(["time_limit", "soft_time_limit"], "float8"),
    **dict.fromkeys(["label_names", "notes"], "text[]"),
}

app = Vidan()


@app.task(name="echo", source=False, retries=0)
def echo(run: Run, value: Any = None) -> Any:
    return value


def change(database: Database, statement: str, **parameters: Any) -> bool:
    """Carry a statement out, unless the tables refuse it."""
    try:
        with database.begin() as connection:
            connection.execute(text(statement), parameters)
    except (DataError, IntegrityError):
        return False
    return True


READERS: dict[str, Callable[[Connection, int], object]] = {
    "find": lambda c, _: scenarios.find(c, limit=1000),
    "get": scenarios.get,
    "history": scenarios.history,
    "overview": lambda c, _: overview.read(c),
    "events": lambda c, _: events.read(c, events.Position(), events.Wanted()).events,
    "waiting": lambda c, _: diagnosis.waiting(c, workers.find(c), patience=timedelta(0)),
    "tasks": lambda c, _: tasks.find(c),
    "schedules": lambda c, _: schedules.find(c),
    "workers": lambda c, _: workers.find(c, alive_only=False),
    "versions": lambda c, _: versions.waiting_for(c, "echo"),
}


def read_all(database: Database, scenario_id: int) -> None:
    """Read with every reader, and encode what it returns."""
    for name, read in READERS.items():
        with database.begin() as connection:
            found = read(connection, scenario_id)
        for one in found if isinstance(found, list) else [found]:
            if hasattr(one, "as_json"):
                assert json.dumps(one.as_json(), allow_nan=False), name


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_readers_and_claims_go_on(database: Database, changes: list[tuple[str, str]]) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [app.tasks["echo"].spec])
        odd, good = creation.create_many(connection, [NewScenario(task="echo")] * 2)
    for column, value in changes:
        kind = TYPES.get(column, "text")
        change(
            database,
            f"UPDATE scenarios SET {column} = CAST(:value AS {kind}) WHERE id = :id",
            value=value,
            id=odd.id,
        )
    read_all(database, odd.id)
    worker = PlayedWorker(database, tasks=("echo",))
    assert good.id in {one.fence.scenario_id for one in worker.take(1000)}
    read_all(database, odd.id)
    worker.let_lease_end()
    with database.begin() as connection:
        expiry.expire(connection, actor="test")
        connection.execute(text("DELETE FROM scenarios"))


@pytest.mark.parametrize("params", [HUGE, DEEP])
@pytest.mark.parametrize("column", ["params", "state"])
def test_a_worker_fails_it_by_name_and_runs_the_others(
    database: Database, database_url: str, tmp_path: Path, params: str, column: str
) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [app.tasks["echo"].spec])
        first = creation.create(connection, NewScenario(task="echo", priority=9)).id
        second = creation.create(connection, NewScenario(task="echo", params={"value": 1})).id
    assert change(
        database, f"UPDATE scenarios SET {column} = CAST(:v AS jsonb) WHERE id = :id",
        v=params, id=first,
    )  # fmt: skip
    settings = Settings(home=tmp_path, database_url=database_url)
    worker = Worker(settings, WorkerOptions("w@test"), app.tasks)
    until = datetime.now(UTC) + timedelta(seconds=30)
    ended: list[scenarios.Scenario] = []
    while datetime.now(UTC) < until and len(ended) < 2:
        worker.run_once()
        with database.begin() as connection:
            ended = scenarios.find(connection, status=[Status.FAILED, Status.COMPLETED])
    worker.leave()
    by_id = {one.id: one for one in ended}
    assert by_id[second].result == 1
    assert by_id[first].status is Status.FAILED
    assert (by_id[first].error or "").startswith(f"its {column} can't be read: ")


def test_commands_show_it(vidan: Shell, database: Database) -> None:
    with database.begin() as connection:
        creation.create_many(connection, [NewScenario(source="/a.mp4")] * 2)
    change(database, "UPDATE scenarios SET params = CAST(:v AS jsonb) WHERE id = 1", v=HUGE)
    change(database, "UPDATE scenarios SET labels = CAST(:v AS jsonb) WHERE id = 2", v=DEEP)
    change(
        database, "UPDATE transitions SET at = 'infinity', to_status = 'odd' WHERE scenario_id = 1"
    )
    rows = vidan("scenario", "list", "--json").json()
    assert {one["id"] for one in rows} == {1, 2}
    assert "a number in it is too large" in vidan("scenario", "show", "1").out
    assert "nested too deeply" in vidan("scenario", "show", "2", "--json").out
    for command in (
        "scenario list --status init_startup",
        "scenario history 1",
        "events --no-follow --since 1h",
        "scenario stop 1",
        "scenario start 1",
        "scenario stop 1",
        "predictions show 1",
        "predictions export 1 --format csv",
        "top --once --json",
        "tasks list",
        "workers list",
        "schedules list",
    ):
        assert vidan(*command.split()).code == 0, command
    assert vidan("scenario", "delete", "1", "--yes").code == 0


@pytest.mark.parametrize("estimated", ['"many"', "1e5000", "-1.5", "{}", "1e14", "null"])
def test_an_odd_estimate_is_none(database: Database, estimated: str) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    PlayedWorker(database).claim()
    info = f'{{"frames_estimated": {estimated}}}'
    change(database, "UPDATE scenarios SET source_info = CAST(:v AS jsonb)", v=info)
    with database.begin() as connection:
        (running,) = overview.read(connection).running
    assert running.frames_estimated == (10**14 if estimated == "1e14" else None)
    read_all(database, running.id)


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("UPDATE scenarios SET time_limit = 'NaN'", True),
        ("UPDATE scenarios SET soft_time_limit = 'Infinity'", True),
        ("UPDATE scenarios SET ended_at = 'infinity'", True),
        ("UPDATE scenarios SET label_names = '{NULL}'", True),
        ("UPDATE scenarios SET source_info = '[]'", True),
        ("UPDATE transitions SET at = 'infinity'", True),
        ("UPDATE tasks SET time_limit = 'NaN'", True),
        ("UPDATE tasks SET rate_limit = 'often'", True),
        ("UPDATE tasks SET concurrency = 0", True),
        ("UPDATE tasks SET params_schema = '3'", True),
        ("UPDATE workers SET fps = 'NaN'", True),
        ("UPDATE workers SET queues = '{NULL}'", True),
        ("UPDATE workers SET seen_at = 'infinity'", True),
        ("UPDATE scenarios SET time_limit = 5, soft_time_limit = 1", False),
        ("UPDATE workers SET fps = 3", False),
    ],
)
def test_tables_refuse_what_they_can(database: Database, statement: str, refused: bool) -> None:
    PlayedWorker(database)
    with database.begin() as connection:
        tasks.publish(connection, [app.tasks["echo"].spec])
        creation.create(connection, NewScenario(task="echo"))
    assert change(database, statement) is not refused


def test_an_odd_follow_up_keeps_nothing_from_ending(database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [app.tasks["echo"].spec])
        after = NewScenario(task="echo")
        one = creation.create(connection, NewScenario(task="echo", then=[after, after])).id
        group = groups.create(connection, [NewScenario(task="echo")], after)
    change(
        database,
        'UPDATE followups SET new = \'{"priority": "high"}\''
        " WHERE id = (SELECT min(id) FROM followups)",
    )
    change(database, "UPDATE groups SET callback = '{\"task\": 1e5000}'")
    worker = PlayedWorker(database, tasks=("echo",))
    for _ in range(2):
        worker.claim()
        worker.end(Status.COMPLETED)
    with database.begin() as connection:
        found = scenarios.find(connection, newest_first=False)
    ended = [each.id for each in found if each.status is Status.COMPLETED]
    assert ended == [one, group.members[0].id]
    assert [each.parent_id for each in found if each.status is Status.INIT_STARTUP] == [one]


def test_an_odd_task_or_schedule_stops_no_other(database: Database, vidan: Shell) -> None:
    spec = app.tasks["echo"].spec
    with database.begin() as connection:
        tasks.publish(connection, [spec, tasks.TaskSpec("odd", {}, needs_source=False)])
    for task in ("echo", "odd"):
        change(
            database,
            "INSERT INTO schedules (name, app, task, cron, next_at)"
            " VALUES (:task, 'a', :task, '* * * * *', now() - interval '1 s')",
            task=task,
        )
    change(database, "UPDATE schedules SET params = CAST(:v AS jsonb) WHERE name = 'odd'", v=HUGE)
    change(
        database, "UPDATE tasks SET params_schema = CAST(:v AS jsonb) WHERE name = 'odd'", v=DEEP
    )
    with database.begin() as connection:
        fired = {one.name: one for one in schedules.fire(connection, actor="test")}
    assert fired["echo"].error is None
    assert "can't be read" in (fired["odd"].error or "")
    listed = vidan("tasks", "list", "--json")
    assert {one["name"] for one in listed.json()} == {"detect", "echo", "odd"}
    assert vidan("tasks", "show", "odd").code == 0
    refused = vidan("scenario", "create", "--task", "odd", "--param", "a=1")
    assert refused.code == 10
    assert "its definition can't be read" in refused.err


def test_http_shows_it(database: Database, database_url: str, tmp_path: Path) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4", key="k"))
    change(database, "UPDATE scenarios SET params = CAST(:v AS jsonb)", v=DEEP)
    client = client_of(Settings(home=tmp_path, database_url=database_url), database)
    answer = client.get("/scenario/1/?detail=true")
    assert answer.status_code == 200, answer.text
    assert answer.json()["params"] == {"unreadable": "it is nested too deeply"}
    with pytest.raises(KeyTaken), database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4", key="k"))
