"""An orchestrator whose broker is unavailable, or whose housekeeping fails: the rest continues."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.schedule import Schedule
from vidan.domain.status import Status
from vidan.orchestrator import BATCH, BROKER_UNAVAILABLE_SECONDS, Orchestrator
from vidan.protocol import creation, partitions, tasks
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios, schedules

BUSY = 7.0
"""Seconds that a machine which is busy with other tests may add."""

NIGHTLY = tasks.TaskSpec("nightly", {}, needs_source=False)


@pytest.fixture
def orchestrator(database_url: str, tmp_path: Path) -> Orchestrator:
    """An orchestrator that no broker's address is given."""
    return Orchestrator(Settings(home=tmp_path, database_url=database_url))


@contextmanager
def running(orchestrator: Orchestrator) -> Iterator[None]:
    """Let it do its rounds until the end of the block."""
    rounds = threading.Thread(target=orchestrator.run)
    rounds.start()
    try:
        yield
    finally:
        orchestrator.stopping = True
        rounds.join(30)
    assert not rounds.is_alive()


class Sends:
    """When a producer was asked to send; the broker is unavailable until a test says otherwise."""

    def __init__(self, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unavailable = True
        self.at: list[float] = []
        self._send = orchestrator._producer.send
        monkeypatch.setattr(orchestrator._producer, "send", self.send)

    def send(self, topic: str, ids: Sequence[int]) -> list[int]:
        self.at.append(time.monotonic())
        return self._send(topic, ids) if self.unavailable else []


def create(database: Database, count: int) -> None:
    with database.begin() as connection:
        news = [NewScenario(source=f"/{n}.mp4") for n in range(count)]
        creation.create_many(connection, news)


def waiting(database: Database) -> int:
    with database.begin() as connection:
        sql = "SELECT count(*) FROM scenarios WHERE announce_at IS NOT NULL"
        return int(connection.execute(text(sql)).scalar_one())


def test_without_a_broker_a_backlog_is_not_written_again_and_again(
    orchestrator: Orchestrator,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However much is due, and whatever wakes the orchestrator; leases are expired meanwhile."""
    caplog.set_level(logging.INFO, "vidan.orchestrator")
    create(database, 1)
    dead = PlayedWorker(database)
    held = dead.claim()
    dead.let_lease_end()
    create(database, 3 * BATCH)
    sends = Sends(orchestrator, monkeypatch)

    with running(orchestrator):
        assert eventually(lambda: len(sends.at) > 0)
        until = time.monotonic() + 2.5 * BROKER_UNAVAILABLE_SECONDS
        while time.monotonic() < until:
            create(database, 1)  # wakes it
            time.sleep(0.1)
        assert all(
            later - earlier >= BROKER_UNAVAILABLE_SECONDS
            for earlier, later in zip(sends.at, sends.at[1:], strict=False)
        )
        assert len(sends.at) >= 2
        with database.begin() as connection:
            assert scenarios.get(connection, held).status is Status.INIT_STARTUP
        sends.unavailable = False
        assert eventually(lambda: waiting(database) == 0, 2 * BROKER_UNAVAILABLE_SECONDS + BUSY)

    told = [one.getMessage() for one in caplog.records if "announcements" in one.getMessage()]
    assert told == [
        f"{BATCH} announcements could not be delivered: they wait",
        "announcements are delivered again",
    ]


def test_schedules_fire_while_housekeeping_fails(
    orchestrator: Orchestrator,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Next week's partition is due while an index is made on `predictions`."""
    with database.begin() as connection:
        partitions.ensure_ahead(connection, weeks=0)
        tasks.publish(connection, [NIGHTLY])
        schedule = Schedule("* * * * *", name="minutely", catch_up="latest")
        schedules.publish(connection, "videos:app", [("nightly", schedule)])
        connection.execute(text("UPDATE schedules SET next_at = date_trunc('minute', now())"))
    tries: list[float] = []
    ensure_ahead = partitions.ensure_ahead

    def counting(*arguments: object) -> object:
        tries.append(time.monotonic())
        return ensure_ahead(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(partitions, "ensure_ahead", counting)

    def fired() -> bool:
        with database.begin() as connection:
            return bool(scenarios.find(connection))

    with database.begin() as other:
        other.execute(text("LOCK TABLE predictions IN SHARE MODE"))
        with running(orchestrator):
            assert eventually(fired, 15 + BUSY)
            since, _ = orchestrator._watch()
            time.sleep(1)
            assert orchestrator._watch()[0] == since
    assert len(tries) == 1
    assert orchestrator._breaks == 0
    assert "housekeeping failed, again in 30 s" in caplog.text


def test_housekeeping_is_done_once_it_can_be(
    orchestrator: Orchestrator, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidan.orchestrator.HOUSEKEEPING_AGAIN_SECONDS", 0.5)
    with database.begin() as connection:
        partitions.ensure_ahead(connection, weeks=0)

    def missing() -> int:
        with database.begin() as connection:
            return len(partitions.missing(connection, weeks=2))

    assert missing() == 2
    with database.begin() as other:
        other.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        other.execute(text("LOCK TABLE predictions IN SHARE MODE"))
        orchestrator._try_to_keep_house()
    assert missing() == 2
    with running(orchestrator):
        assert eventually(lambda: missing() == 0)
