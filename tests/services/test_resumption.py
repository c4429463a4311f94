"""A run finds what an interrupted one has left of the same work, and takes it over."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import create, execute, row
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol.creation import NewScenario
from vidan.services import resumption, steering

SOURCE = "/videos/50%_*.mp4"
PARAMS: dict[str, Any] = {"every": 5, "labels": ["car"]}
IDENTITY = {"bytes": 100, "changed": "1.000000000"}


def left(database: Database, params: dict[str, Any] = PARAMS, **identity: Any) -> Any:
    with database.begin() as connection:
        return resumption.find(connection, SOURCE, params, IDENTITY | identity)


def interrupted(database: Database, queue: str = "run-1") -> int:
    """A scenario of which five frames are stored, and which then was stopped."""
    (one,) = create(database, NewScenario(source=SOURCE, params=PARAMS, queue=queue))
    worker = PlayedWorker(database, queues=(queue,))
    worker.claim()
    worker.store(range(5), source_info=json.dumps({"file": IDENTITY}))
    with database.begin() as connection:
        steering.stop(connection, one)
    worker.end(Status.INACTIVE)
    worker.let_lease_end()
    return one


def test_the_same_work_is_found_and_resumes_at_its_frame(database: Database) -> None:
    one = interrupted(database)
    found = left(database)
    assert (found.scenario.id, found.changed) == (one, False)
    with database.begin() as connection:
        assert resumption.take_over(connection, found.scenario, "run-2", actor="test")
    assert (row(database, one).queue, row(database, one).status) == ("run-2", "init_startup")
    worker = PlayedWorker(database, queues=("run-2",))
    assert worker.claim() == one
    assert worker.checkpoint == 5
    with database.begin() as connection:
        assert not resumption.take_over(connection, found.scenario, "run-3", actor="test")


def test_another_file_under_the_name_is_told(database: Database) -> None:
    interrupted(database)
    assert left(database, bytes=101).changed
    assert left(database, changed="2.000000000").changed


@pytest.mark.parametrize("params", [{}, {"every": 5}, {"every": 6, "labels": ["car"]}])
def test_other_params_are_other_work(database: Database, params: dict[str, Any]) -> None:
    interrupted(database)
    assert left(database, params) is None


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_what_has_ended_is_not_left(database: Database, status: Status) -> None:
    one = interrupted(database)
    execute(database, "UPDATE scenarios SET status = :to WHERE id = :id", to=str(status), id=one)
    assert left(database) is None


def test_what_an_interrupted_run_has_completed_is_done_once(database: Database) -> None:
    one = interrupted(database)
    execute(database, "UPDATE scenarios SET status = 'completed' WHERE id = :id", id=one)

    def take(queues: set[str], queue: str = "run-2", **identity: Any) -> int | None:
        with database.begin() as connection:
            return resumption.take_completed(
                connection, SOURCE, PARAMS, IDENTITY | identity, queues, queue
            )

    assert take({"run-9"}) is None
    assert take({"run-1"}, bytes=101) is None
    assert take({"run-1"}) == one
    assert take({"run-2"}, "run-3") == one
    assert (row(database, one).queue, row(database, one).status) == ("run-3", "completed")


def test_what_others_queued_or_work_on_is_not_taken(database: Database) -> None:
    interrupted(database, "default")
    assert left(database) is None
    interrupted(database)
    living = PlayedWorker(database, queues=("run-1",))
    execute(database, "UPDATE workers SET host = 'elsewhere' WHERE id = :id", id=living.id)
    assert left(database) is None


def test_a_process_that_is_gone_works_on_nothing(database: Database) -> None:
    (one,) = create(database, NewScenario(source=SOURCE, params=PARAMS, queue="run-1"))
    killed = PlayedWorker(database, queues=("run-1",))
    killed.claim()
    killed.store(range(5), source_info=json.dumps({"file": IDENTITY}))
    execute(
        database,
        "UPDATE workers SET host = :host, pid = 2147483646 WHERE id = :id",
        host=socket.gethostname(),
        id=killed.id,
    )
    found = left(database)
    assert found.scenario.id == one
    with database.begin() as connection:
        assert resumption.take_over(connection, found.scenario, "run-2", actor="test")
    assert (row(database, one).queue, row(database, one).status) == ("run-2", "active")


def test_what_has_stored_nothing_may_have_any_file(database: Database) -> None:
    (one,) = create(database, NewScenario(source=SOURCE, params=PARAMS, queue="run-1"))
    found = left(database, bytes=7)
    assert (found.scenario.id, found.changed) == (one, False)
