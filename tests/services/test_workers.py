"""Workers as their users see them: listed, found by name, deleted when they are long gone."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.errors import NotFoundError
from vidan.protocol import creation, heartbeats
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios, workers


def beat(
    database: Database, worker: PlayedWorker, *, count: bool = False
) -> heartbeats.Beat | None:
    with database.begin() as connection:
        return heartbeats.beat(connection, worker.id, state="busy", fps=12.25, count=count)


def test_a_worker_shows_what_it_holds(database: Database) -> None:
    with database.begin() as connection:
        created = creation.create_many(
            connection, [NewScenario(source="/a"), NewScenario(source="/b")]
        )
    worker = PlayedWorker(database)
    worker.take(2)
    beat(database, worker)
    with database.begin() as connection:
        found = workers.get(connection, str(worker.id))
        assert found.as_json() == {
            "id": str(worker.id),
            "name": "cpu-0@test",
            "host": "test",
            "pid": found.pid,
            "device": "cpu",
            "slots": 1,
            "state": "busy",
            "scenarios": [one.id for one in created],
            "fps": 12.2,
            "seen_at": found.seen_at.isoformat(),
            "queues": ["default"],
            "tasks": ["detect"],
            "versions": [],
            "source": None,
            "desired_state": "running",
            "desired_slots": None,
        }
        assert scenarios.get(connection, created[0].id).worker == "cpu-0@test"


def test_who_is_gone_is_shown_only_if_asked_for(database: Database) -> None:
    ended, signed_off, alive = (PlayedWorker(database, name) for name in "abc")
    ended.let_lease_end()
    with database.begin() as connection:
        heartbeats.sign_off(connection, signed_off.id)
        assert [one.id for one in workers.find(connection)] == [alive.id]
        everyone = workers.find(connection, alive_only=False)
        assert [(one.name, one.state, one.alive) for one in everyone] == [
            ("a", "gone", False),
            ("b", "gone", False),
            ("c", "idle", True),
        ]
    counted = beat(database, alive, count=True)
    assert counted is not None
    assert counted.live == 1


def test_of_several_registrations_of_a_name_the_living_one_is_found(database: Database) -> None:
    first, second, third = (PlayedWorker(database) for _ in range(3))
    for gone in (first, third):
        gone.let_lease_end()
    with database.begin() as connection:
        assert workers.get(connection, "cpu-0@test").id == second.id
        assert workers.get(connection, str(first.id)).id == first.id


@pytest.mark.parametrize(
    "wanted", ["", "nobody", "' OR true --", "\x00", "\ud800", str(uuid.UUID(int=1))]
)
def test_a_worker_that_is_not_there_is_not_found(database: Database, wanted: str) -> None:
    PlayedWorker(database)
    with pytest.raises(NotFoundError), database.begin() as connection:
        workers.get(connection, wanted)


def test_who_is_long_gone_and_holds_nothing_is_forgotten(database: Database) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a"))
    holding, gone, recent, alive = (PlayedWorker(database, name) for name in "abcd")
    holding.take()
    with database.begin() as connection:
        for one in (holding, gone, recent):
            heartbeats.sign_off(connection, one.id)
        connection.execute(
            text("UPDATE workers SET seen_at = now() - interval '8 d' WHERE name <> 'c'")
        )
        assert workers.forget_gone(connection) == 1
        left = {one.id for one in workers.find(connection, alive_only=False)}
    assert left == {holding.id, recent.id, alive.id}
