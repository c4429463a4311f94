"""`vidan doctor` on stuck scenarios: each finding names an id and the command that fixes it.

The checks of this machine are in test_looking.py.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.cluster import Cluster
from tests.support.kafka import HostedBroker
from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.shell import Shell
from vidan import orchestrator as orchestrator_module
from vidan.broker import connect
from vidan.cli.commands.doctor import finding as finding_module
from vidan.cli.commands.doctor import services, stuck
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import DesiredState, Status
from vidan.protocol import creation, partitions, tasks
from vidan.protocol.creation import NewScenario
from vidan.services import dead_letters, versions, workers
from vidan.services.dead_letters import NewLetter


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is late at once."""
    monkeypatch.setattr(finding_module, "PATIENCE", timedelta(0))


def findings(vidan: Shell, check: str, state: str = "warn") -> list[dict[str, Any]]:
    """The findings of a check in this state."""
    ended = vidan("doctor", "--json")
    return [one for one in ended.json() if (one["check"], one["state"]) == (check, state)]


def finding(vidan: Shell, check: str, state: str = "warn") -> dict[str, Any]:
    """The one finding of a check in this state."""
    (found,) = findings(vidan, check, state)
    return found


def execute(database: Database, statement: str, **parameters: object) -> None:
    with database.begin() as connection:
        connection.execute(text(statement), parameters)


def create(database: Database, **new: Any) -> int:
    new.setdefault("source", "/v/a.mp4")
    with database.begin() as connection:
        return creation.create(connection, NewScenario(**new)).id


# --- what waits, by reason


def test_nothing_waits(vidan: Shell, worker: PlayedWorker) -> None:
    assert finding(vidan, "waiting", "ok")["finding"] == "0 waiting, none for long"


def test_due_for_a_moment_is_not_late(
    vidan: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding_module, "PATIENCE", timedelta(seconds=30))
    create(database)
    assert finding(vidan, "waiting", "ok")["finding"] == "1 waiting, none for long"
    execute(database, "UPDATE scenarios SET not_before = now() - interval '31 min'")
    assert "scenario 1, for 31 min" in finding(vidan, "waiting")["finding"]


def test_no_worker_has_the_queue(vidan: Shell, worker: PlayedWorker, database: Database) -> None:
    first, _ = create(database, queue="night shift"), create(database, queue="night shift")
    found = finding(vidan, "waiting")
    assert f"scenario {first} and 1 more" in found["finding"]
    assert "no worker has queue 'night shift'" in found["finding"]
    assert found["remedy"] == "`vidan worker --queues 'night shift'`"


def test_no_worker_has_the_task(vidan: Shell, worker: PlayedWorker, database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [tasks.TaskSpec("count", {}, needs_source=True)])
    one = create(database, task="count")
    found = finding(vidan, "waiting")
    assert f"scenario {one}," in found["finding"]
    assert "task 'count'" in found["finding"]
    assert "--app MODULE:APP" in found["remedy"]


def test_no_worker_runs_the_version_that_checked_it(vidan: Shell, database: Database) -> None:
    schemas: list[dict[str, Any]] = [
        {"properties": {key: {"type": "integer"} for key in names}, "additionalProperties": False}
        for names in ("a", "ab")
    ]
    with database.begin() as connection:
        brought = [
            versions.Brought("shop:app", str(n), [tasks.TaskSpec("count", schema)])
            for n, schema in enumerate(schemas)
        ]
        first, second = versions.register(connection, brought)
    PlayedWorker(database, tasks=("count",))
    execute(database, f"UPDATE workers SET versions = '{{{first}}}'")
    with database.begin() as connection:
        versions.use(connection, second)
    one = create(database, task="count", params={"b": 1})
    found = finding(vidan, "waiting")
    assert f"scenario {one}," in found["finding"]
    assert "a newer version of task 'count'" in found["finding"]
    assert "`vidan tasks show count`" in found["remedy"]
    several = finding(vidan, "versions", "ok")["finding"]
    assert several == f"shop:app: {second} (governs) on 0 workers, {first} on 1 worker"


def test_no_worker_was_started_with_the_source(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    bound = create(database, source="/v/bound.mp4")
    execute(database, "UPDATE scenarios SET source_bound = true")
    unsourced = create(database, source=None)
    of_source, of_any = findings(vidan, "waiting")
    assert f"scenario {bound}," in of_source["finding"]
    assert "/v/bound.mp4" in of_source["finding"]
    assert "--source /v/bound.mp4" in of_source["remedy"]
    assert f"scenario {unsourced}," in of_any["finding"]
    assert "no worker in queue 'default' accepts scenarios without a source" in of_any["finding"]
    assert "--source FILE" in of_any["remedy"]


def test_all_workers_were_started_for_other_sources(vidan: Shell, database: Database) -> None:
    PlayedWorker(database, source="/v/mine.mp4")
    mine, other = create(database, source="/v/mine.mp4"), create(database, source="/v/other.mp4")
    by_finding = {one["finding"].split(",")[0]: one for one in findings(vidan, "waiting")}
    assert "is free" in by_finding[f"scenario {mine}"]["finding"]
    assert "were started for other sources" in by_finding[f"scenario {other}"]["finding"]
    assert "`vidan worker --queues default`" in by_finding[f"scenario {other}"]["remedy"]


def test_a_suspect_waits_for_a_process_of_one_slot(vidan: Shell, database: Database) -> None:
    PlayedWorker(database)
    execute(database, "UPDATE workers SET slots = 8")
    one = create(database)
    execute(database, "UPDATE scenarios SET crashes = 2")
    found = finding(vidan, "waiting")
    assert f"scenario {one}," in found["finding"]
    assert "--slots 1" in found["remedy"]
    assert f"vidan scenario history {one}" in found["remedy"]


def test_a_quarantine_child_is_no_worker_for_others(vidan: Shell, database: Database) -> None:
    PlayedWorker(database)
    execute(database, "UPDATE workers SET quarantine = true")
    create(database)
    assert "no worker has queue" in finding(vidan, "waiting")["finding"]
    execute(database, "UPDATE scenarios SET crashes = 2")
    assert "is free" in finding(vidan, "waiting")["finding"]


def test_the_workers_are_busy(vidan: Shell, worker: PlayedWorker, database: Database) -> None:
    create(database)
    worker.claim()
    first = create(database)
    create(database)
    found = finding(vidan, "waiting")
    assert f"scenario {first} and 1 more" in found["finding"]
    assert "busy: cpu-0@test" in found["finding"]
    assert "vidan workers list" in found["remedy"]


def test_the_task_has_no_room(vidan: Shell, database: Database) -> None:
    specs = [
        tasks.TaskSpec("pair", {}, needs_source=False, concurrency=1),
        tasks.TaskSpec("paced", {}, needs_source=False, rate_limit="10/h"),
    ]
    with database.begin() as connection:
        tasks.publish(connection, specs)
    worker = PlayedWorker(database, tasks=("pair", "paced"))
    one = create(database, task="pair", source=None)
    assert "is free" in finding(vidan, "waiting")["finding"]
    worker.claim()
    one = create(database, task="pair", source=None)
    found = finding(vidan, "waiting")
    assert f"scenario {one}," in found["finding"]
    assert "no more of task 'pair'" in found["finding"]
    assert "`vidan tasks show pair`" in found["remedy"]
    create(database, task="paced", source=None)
    assert {one["finding"].split("task ")[1].split()[0] for one in findings(vidan, "waiting")} == {
        "'pair'",
        "'paced'",
    }


def test_the_workers_drain(vidan: Shell, worker: PlayedWorker, database: Database) -> None:
    create(database)
    with database.begin() as connection:
        workers.retire(connection, None, DesiredState.DRAINED)
    assert "draining: cpu-0@test" in finding(vidan, "waiting")["finding"]
    assert finding(vidan, "workers", "ok")["finding"] == "1 alive, 0 busy, 1 draining"


def test_what_hides_behind_a_busy_queue_is_found(
    vidan: Shell, worker: PlayedWorker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidan.services.diagnosis.SAMPLE", 3)
    for _ in range(5):
        create(database, priority=9)
    hidden = create(database, queue="zoo")
    create(database, queue="ant")
    assert any(f"scenario {hidden}," in one["finding"] for one in findings(vidan, "waiting"))


# --- leases and heartbeats


def test_what_a_dead_worker_holds(vidan: Shell, database: Database) -> None:
    one, other = create(database), create(database)
    gone, forgotten = PlayedWorker(database), PlayedWorker(database)
    gone.claim()
    forgotten.claim()
    alive = PlayedWorker(database)  # of the same name: it does not hold them
    assert alive.name == gone.name
    assert finding(vidan, "running", "ok")["finding"] == "2 running"
    gone.let_lease_end(10)
    execute(database, "DELETE FROM workers WHERE id = :id", id=forgotten.id)
    found = finding(vidan, "running")
    assert found["finding"].startswith(f"2 held by workers that are gone, first: scenario {one}")
    assert other > one
    assert "vidan orchestrator" in found["remedy"]


def test_a_heartbeat_that_is_late(vidan: Shell, worker: PlayedWorker, database: Database) -> None:
    assert findings(vidan, "heartbeats") == []
    execute(database, "UPDATE workers SET seen_at = now() - interval '3 min'")
    found = finding(vidan, "heartbeats")
    assert str(worker.id) in found["finding"]
    assert "not seen for 3 min" in found["finding"]
    assert f"vidan workers show {worker.id}" in found["remedy"]


# --- the orchestrator's work


def test_whether_an_orchestrator_is_at_work(
    vidan: Shell, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = finding(vidan, "orchestrator")
    assert "none is connected" in found["finding"]
    assert "vidan orchestrator" in found["remedy"]
    settings = Settings(home=vidan.folder, database_url=database_url)
    monkeypatch.setattr(socket, "gethostname", lambda: "here" * 30)
    one = orchestrator_module.Orchestrator(settings)
    one.expire()
    assert finding(vidan, "orchestrator", "ok")["finding"] == "1 at work"
    monkeypatch.setattr(socket, "gethostname", lambda: "there")
    other = orchestrator_module.Orchestrator(settings)
    other.expire()
    assert finding(vidan, "orchestrator", "ok")["finding"] == "2 at work"
    one.close()
    assert finding(vidan, "orchestrator", "ok")["finding"] == "1 at work"
    other.close()


def test_an_orchestrator_that_is_frozen(
    vidan: Shell, embedded_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck, "ORCHESTRATOR_PATIENCE", timedelta(seconds=3))
    first, second = (embedded_cluster.orchestrator() for _ in "ab")

    def at_work() -> list[str]:
        return [one["finding"] for one in findings(vidan, "orchestrator", "ok")]

    assert eventually(lambda: at_work() == ["2 at work"], 30)
    os.kill(first.pid, signal.SIGSTOP)
    assert eventually(lambda: bool(findings(vidan, "orchestrator")), 30)
    found = finding(vidan, "orchestrator")
    assert f"`kill -CONT {first.pid}`" in found["remedy"]
    assert "1 at work" in found["finding"]
    assert vidan("doctor", "--probe").code != 1  # another one works
    os.kill(second.pid, signal.SIGSTOP)
    assert eventually(lambda: not findings(vidan, "orchestrator", "ok"), 30)
    assert "no scenario is announced" in finding(vidan, "orchestrator")["finding"]
    os.kill(first.pid, signal.SIGCONT)
    assert eventually(lambda: bool(findings(vidan, "orchestrator", "ok")), 30)
    os.kill(second.pid, signal.SIGCONT)


def test_an_announcement_that_is_overdue(vidan: Shell, database: Database) -> None:
    one = create(database)
    assert findings(vidan, "announcements") == []
    execute(database, "UPDATE scenarios SET announce_at = now() - interval '3 min'")
    found = finding(vidan, "announcements")
    assert found["finding"] == f"overdue for 3 min, first: scenario {one}"
    assert "vidan orchestrator" in found["remedy"]


def test_partitions_that_are_missing(vidan: Shell, database: Database) -> None:
    assert "week of" in finding(vidan, "partitions")["finding"]
    create(database)  # makes that of this week
    with database.begin() as connection:
        monday = partitions.this_week(connection)
    found = finding(vidan, "partitions")
    assert str(monday) not in found["finding"]
    assert str(monday + timedelta(weeks=1)) in found["finding"]
    assert "vidan orchestrator" in found["remedy"]
    with database.begin() as connection:
        partitions.ensure_ahead(connection)
    assert findings(vidan, "partitions") == []


# --- failures of the last day


def test_dead_letters_of_late(vidan: Shell, database: Database) -> None:
    with database.begin() as connection:
        letters = [
            NewLetter("scenarios", 0, offset, 1, key=None, payload=b"x", error="not JSON")
            for offset in range(2)
        ]
        dead_letters.add(connection, letters)
    found = finding(vidan, "dead letters")
    assert found["finding"] == "2 since yesterday, the last is 2"
    assert "vidan dead show 2" in found["remedy"]
    execute(database, "UPDATE dead_letters SET received_at = now() - interval '25 h'")
    assert findings(vidan, "dead letters") == []


def test_scenarios_that_failed_of_late(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    one, _ = create(database), create(database)
    worker.claim()
    worker.end(Status.FAILED, "unreadable")
    found = finding(vidan, "failed")
    assert found["finding"] == f"1 since yesterday, the last is scenario {one}"
    assert f"vidan scenario retry {one}" in found["remedy"]
    execute(database, "UPDATE scenarios SET ended_at = now() - interval '25 h'")
    assert findings(vidan, "failed") == []


# --- the broker


def test_lag_that_nobody_reads(
    vidan: Shell, database: Database, embedded_broker: HostedBroker, database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    vidan.environment["KAFKA_BOOTSTRAP_SERVERS"] = embedded_broker.bootstrap_servers
    runners, retries = f"r-{time.monotonic_ns()}", f"o-{time.monotonic_ns()}"
    monkeypatch.setattr("vidan.broker.messages.RUNNERS_GROUP", runners)
    monkeypatch.setattr("vidan.broker.messages.ORCHESTRATORS_GROUP", retries)
    servers = {"bootstrap.servers": embedded_broker.bootstrap_servers}
    producer = connect(Settings(home=vidan.folder, kafka=servers)).producer()
    assert producer.send("scenarios", [1]) == []
    assert producer.send("retry_topic", [1]) == []
    producer.close()

    of_runners, of_orchestrators = findings(vidan, "lag")
    assert runners in of_runners["finding"]
    assert "vidan worker" in of_runners["remedy"]
    assert retries in of_orchestrators["finding"]
    assert "vidan orchestrator" in of_orchestrators["remedy"]

    PlayedWorker(database)
    monkeypatch.setattr(stuck, "ORCHESTRATOR_PATIENCE", timedelta(minutes=10))
    orchestrator = orchestrator_module.Orchestrator(
        Settings(home=vidan.folder, database_url=database_url)
    )
    orchestrator.expire()
    assert findings(vidan, "lag") == []
    monkeypatch.setattr(services, "MUCH_LAG", 0)
    of_runners, of_orchestrators = findings(vidan, "lag")
    assert "busy workers" in of_runners["remedy"]
    orchestrator.close()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (2e5, "2 days")],
)
def test_spans_are_said_in_words(seconds: float, said: str) -> None:
    assert stuck.span(timedelta(seconds=seconds)) == said
