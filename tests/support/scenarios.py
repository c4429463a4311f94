"""Scenarios for tests: create them, read and change their rows, bring them into a status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.domain.status import ENDED, STOPPING, Status
from vidan.protocol import creation, lifecycle
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.services import scenarios, steering

VIDEO = NewScenario(source="/videos/clip.mp4")


def create(database: Database, *news: NewScenario) -> list[int]:
    with database.begin() as connection:
        created = creation.create_many(connection, news or [NewScenario(source="/a.mp4")])
    return [one.id for one in created]


def execute(database: Database, statement: str, **parameters: object) -> None:
    with database.begin() as connection:
        connection.execute(text(statement), parameters)


def row(database: Database, scenario_id: int) -> Row[Any]:
    with database.begin() as connection:
        return connection.execute(
            text(
                "SELECT *, not_before <= now() AS due, announce_at <= now() AS announced"
                " FROM scenarios WHERE id = :id"
            ),
            {"id": scenario_id},
        ).one()


def status(database: Database, scenario_id: int) -> Status:
    return Status(row(database, scenario_id).status)


def stop(database: Database, scenario_id: int) -> None:
    with database.begin() as connection:
        assert steering.stop(connection, scenario_id)


def last_reason(database: Database, scenario_id: int) -> str | None:
    with database.begin() as connection:
        return scenarios.history(connection, scenario_id)[-1].reason


def fence_of(worker: PlayedWorker) -> Fence:
    assert worker.fence is not None
    return worker.fence


def create_one(database: Database, new: NewScenario = VIDEO) -> int:
    with database.begin() as connection:
        return creation.create(connection, new).id


def get(database: Database, scenario_id: int) -> scenarios.Scenario:
    with database.begin() as connection:
        return scenarios.get(connection, scenario_id)


def in_status(database: Database, status: Status) -> int:
    """A scenario that got into a status the way scenarios do."""
    start = Status.INACTIVE if status is Status.INACTIVE else Status.INIT_STARTUP
    scenario_id = create_one(database, replace(VIDEO, status=start))
    if status in (Status.INIT_STARTUP, Status.INACTIVE):
        return scenario_id
    worker = PlayedWorker(database)
    if status is Status.INIT_STARTUP_PROCESSING:
        worker.take()
        return scenario_id
    worker.claim()
    worker.store([0, 1])
    if status in STOPPING:
        with database.begin() as connection:
            steering.stop(connection, scenario_id)
    if status is Status.IN_SHUTDOWN_PROCESSING:
        assert worker.fence is not None
        with database.begin() as connection:
            assert lifecycle.shut_down(connection, worker.fence, actor="worker")
    if status in ENDED:
        worker.end(status, error="it broke" if status is Status.FAILED else None)
    return scenario_id
