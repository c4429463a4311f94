"""Leases: registration, heartbeats, and what a worker holds."""

from __future__ import annotations

import uuid

from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import create, stop
from vidan.db.session import Database
from vidan.domain.status import DesiredState, Status
from vidan.domain.worker import LEASE_SECONDS
from vidan.protocol import creation, heartbeats
from vidan.protocol.creation import NewScenario
from vidan.services import workers


def seconds_left(database: Database, worker: PlayedWorker) -> float:
    with database.begin() as connection:
        found = connection.execute(
            text("SELECT extract(epoch FROM lease_until - now()) FROM workers WHERE id = :id"),
            {"id": worker.id},
        )
        return float(found.scalar_one())


def beat(
    database: Database, worker: PlayedWorker, *, count: bool = False
) -> heartbeats.Beat | None:
    with database.begin() as connection:
        return heartbeats.beat(connection, worker.id, state="busy", fps=12.25, count=count)


def test_a_registration_has_a_lease(database: Database) -> None:
    worker = PlayedWorker(database, queues=("a", "b"), tasks=("t",), source="rtsp://1")
    assert 0 < seconds_left(database, worker) <= LEASE_SECONDS
    with database.begin() as connection:
        (found,) = workers.find(connection)
    assert (found.id, found.name, found.state) == (worker.id, "cpu-0@test", "idle")
    assert (found.queues, found.tasks, found.source) == (("a", "b"), ("t",), "rtsp://1")
    assert found.alive
    assert found.scenarios == ()


def test_a_lease_is_renewed_only_while_it_has_not_ended(database: Database) -> None:
    worker = PlayedWorker(database)
    worker.let_lease_end(-2)
    assert beat(database, worker)
    assert seconds_left(database, worker) > LEASE_SECONDS - 1
    worker.let_lease_end(0)
    assert beat(database, worker) is None
    worker.let_lease_end(-2)
    with database.begin() as connection:
        heartbeats.sign_off(connection, worker.id)
    assert beat(database, worker) is None
    with database.begin() as connection:
        nobody = uuid.uuid4()
        assert heartbeats.beat(connection, nobody, state="idle", fps=0, count=False) is None


def test_a_heartbeat_renews_and_reads_what_is_held(database: Database) -> None:
    PlayedWorker(database, "another")
    worker = PlayedWorker(database)

    assert beat(database, worker) == heartbeats.Beat(DesiredState.RUNNING, [], None)
    with database.begin() as connection:
        creation.create_many(connection, [NewScenario(source="/a.mp4")] * 3)
    taken = [one.fence for one in worker.take(2)]
    worker.let_lease_end(-2)
    found = beat(database, worker, count=True)
    assert found is not None
    assert [(one.scenario_id, one.epoch) for one in found.held] == [
        (fence.scenario_id, fence.epoch) for fence in taken
    ]
    assert {one.status for one in found.held} == {Status.INIT_STARTUP_PROCESSING}
    assert found.live == 2
    assert seconds_left(database, worker) > LEASE_SECONDS - 1
    worker.let_lease_end(0)
    assert beat(database, worker, count=True) is None


def test_held_tells_what_a_worker_holds(database: Database) -> None:
    first, second = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    worker = PlayedWorker(database)
    worker.take(2)
    stop(database, second)
    with database.begin() as connection:
        assert heartbeats.held(connection, worker.id) == [
            heartbeats.Held(first, 1, Status.INIT_STARTUP_PROCESSING),
            heartbeats.Held(second, 1, Status.INIT_SHUTDOWN),
        ]
        assert heartbeats.held(connection, PlayedWorker(database).id) == []
