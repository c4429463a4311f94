"""A scenario whose rows the database refuses, for whatever reason, does not delay others."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.orchestrator import Orchestrator
from vidan.protocol import announcements, creation
from vidan.protocol.creation import NewScenario
from vidan.run.run import Run
from vidan.services import scenarios
from vidan.supervisor.post import Post, Release
from vidan.supervisor.supervisor import Supervisor
from vidan.tasks.app import Vidan
from vidan.worker.outcomes import OutcomeThread
from vidan.worker.worker import Worker

app = Vidan()


@app.task(name="echo", source=False, retries=0)
def echo(run: Run, value: int) -> int:
    return value


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings with an address at which there is no broker."""
    return Settings(
        home=tmp_path, database_url=database_url, kafka={"bootstrap.servers": "127.0.0.1:1"}
    )


@pytest.fixture
def worker(settings: Settings) -> Iterator[Worker]:
    made = Worker(settings, WorkerOptions("w@test", slots=3), app.tasks)
    yield made
    made.leave()
    made._slots.close()


def create(database: Database, count: int = 1) -> list[int]:
    news = [NewScenario(task="echo", params={"value": n}) for n in range(count)]
    with database.begin() as connection:
        return [one.id for one in creation.create_many(connection, news)]


def get(database: Database, scenario_id: int) -> scenarios.Scenario:
    with database.begin() as connection:
        return scenarios.get(connection, scenario_id)


@contextmanager
def refusing(database: Database, table: str, condition: str) -> Iterator[None]:
    """Let the database refuse updates of the rows that meet a condition, as a constraint would."""
    with database.begin() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN RAISE EXCEPTION ''refused'' USING ERRCODE = ''23514''; END'"
            )
        )
        connection.execute(
            text(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW"
                f" WHEN ({condition}) EXECUTE FUNCTION refuse()"
            )
        )
    try:
        yield
    finally:
        database.retrying(Connection.execute, text(f"DROP TRIGGER refuse ON {table}"))


def run_until_all_are_unwritten(worker: Worker, count: int) -> OutcomeThread:
    """End the thread that writes outcomes: it might write each in a statement of its own."""
    lease, thread = worker._lease_holder.current(), worker._lease_holder.outcome_thread
    assert lease is not None
    assert thread is not None
    thread.close()
    worker._claims.claim(lease, hinted=True)
    assert eventually(lambda: len(worker._slots.outcomes()) == count)
    return thread


def test_an_end_that_is_refused_is_its_own_runs_error(worker: Worker, database: Database) -> None:
    worker.run_once()  # registers, and publishes its tasks
    first, poisoned, last = create(database, 3)
    condition = f"NEW.id = {poisoned} AND NEW.status = 'completed'"
    with refusing(database, "scenarios", condition):
        run_until_all_are_unwritten(worker, 3).write_ended()
    assert [get(database, one).status for one in (first, last)] == [Status.COMPLETED] * 2
    found = get(database, poisoned)
    assert (found.status, found.attempts) == (Status.FAILED, 1)
    assert "its end can't be stored" in (found.error or "")
    assert worker._slots.free == 3


def test_a_scenario_that_can_not_even_fail_delays_no_other(
    worker: Worker, database: Database
) -> None:
    worker.run_once()
    first, poisoned = create(database, 2)
    condition = f"NEW.id = {poisoned} AND NEW.status NOT IN ('init_startup_processing', 'active')"
    with refusing(database, "scenarios", condition):
        run_until_all_are_unwritten(worker, 2).write_ended()
        assert get(database, first).status is Status.COMPLETED
        assert worker._slots.free == 3
    assert worker.lease is not None
    worker.lease._beat()
    worker.lease._beat()  # a row without a run, in two heartbeats
    assert get(database, poisoned).status is Status.INIT_STARTUP
    assert get(database, poisoned).attempts == 0


def test_a_round_that_fails_ends_no_worker(worker: Worker, database: Database) -> None:
    worker.run_once()
    (scenario_id,) = create(database)
    with refusing(database, "scenarios", "NEW.status = 'init_startup_processing'"):
        loop = threading.Thread(target=worker.run)
        loop.start()
        time.sleep(1)
        assert loop.is_alive()
    try:
        assert eventually(lambda: get(database, scenario_id).status is Status.COMPLETED)
        with database.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM workers")).scalar() == 1
    finally:
        worker.stopping = True
        loop.join(20)


def test_a_worker_that_leaves_can_leave(worker: Worker, database: Database) -> None:
    """A scenario that can't be handed over is released once its worker is gone."""
    worker.run_once()
    create(database)
    with refusing(database, "scenarios", "OLD.status = 'active'"):
        run_until_all_are_unwritten(worker, 1)
        worker._outcome_writer.write = broken  # type: ignore[method-assign,assignment]
        started = time.monotonic()
        worker.leave()
        assert time.monotonic() - started < 25  # less than it has for a run that hangs
    with database.begin() as connection:
        assert connection.execute(text("SELECT state FROM workers")).scalar() == "gone"


def broken(*_: object) -> None:
    raise RuntimeError("for a test")


def test_a_release_that_is_refused_ends_no_supervisor(
    settings: Settings, database: Database
) -> None:
    (scenario_id,) = create_sourced(database)
    dead = PlayedWorker(database)
    dead.claim()
    supervisor = Supervisor(settings, [])
    post = Post(WorkerOptions(name="w"))
    supervisor._releases = [
        Release(post, dead.id, [scenario_id], "for a test"),
        Release(post, uuid.uuid4(), [], "for a test"),
    ]
    with refusing(database, "workers", "true"):
        supervisor._release()
    assert len(supervisor._releases) == 1  # the other release was done

    def released() -> bool:
        supervisor._release()
        return not supervisor._releases

    assert eventually(released)
    assert get(database, scenario_id).status is Status.INIT_STARTUP
    assert get(database, scenario_id).crashes == 1


def create_sourced(database: Database, count: int = 1) -> list[int]:
    with database.begin() as connection:
        news = [NewScenario(source=f"/{n}.mp4") for n in range(count)]
        return [one.id for one in creation.create_many(connection, news)]


def test_rows_that_another_orchestrator_has_locked_cause_no_busy_loop(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are due and locked: the orchestrator asks for them only after pauses."""
    create_sourced(database)
    rounds: list[float] = []
    take_due = announcements.take_due

    def counting(connection: Connection, limit: int = 1000) -> list[int]:
        rounds.append(time.monotonic())
        return take_due(connection, limit)

    monkeypatch.setattr(announcements, "take_due", counting)
    orchestrator = Orchestrator(settings)
    loop = threading.Thread(target=orchestrator.run)
    with database.begin() as connection:
        assert take_due(connection)
        loop.start()
        assert eventually(lambda: len(rounds) >= 2)
        time.sleep(2)
    orchestrator.stopping = True
    loop.join(30)
    assert len(rounds) <= (rounds[-1] - rounds[0]) / 0.05 + 5


@pytest.mark.slow
def test_expiry_does_not_wait_for_an_announcement(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a broker an attempt to announce takes seconds, here for ever, and leases end."""
    create_sourced(database, 12)
    dead = [PlayedWorker(database, f"w-{number}") for number in range(10)]
    for number, worker in enumerate(dead):
        worker.claim()
        worker.let_lease_end(-0.6 * number)
    orchestrator = Orchestrator(settings)
    tries, over = threading.Event(), threading.Event()

    def send(_topic: str, ids: Sequence[int]) -> list[int]:
        tries.set()
        over.wait()
        return list(ids)

    monkeypatch.setattr(orchestrator._producer, "send", send)
    rounds = threading.Thread(target=orchestrator.run)
    rounds.start()

    def ended() -> int:
        sql = "SELECT count(*) FROM transitions WHERE from_status = 'active'"
        with database.begin() as connection:
            return int(connection.execute(text(sql)).scalar_one())

    try:
        assert tries.wait(30)
        assert eventually(lambda: ended() == 10), ended()
    finally:
        over.set()
        orchestrator.stopping = True
        rounds.join(15)
    assert not rounds.is_alive()
