"""A worker's loop, step by step in this process: what it stores, whatever a task does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import eventually
from tests.support.stepped_worker import (
    AWAY,
    ENDED,
    ERRORS,
    app,
    calls,
    create,
    get,
    step_until,
)
from tests.support.videos import encode
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable, RejectedTask
from vidan.protocol import creation, lifecycle, tasks
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios, steering
from vidan.worker import execution
from vidan.worker.worker import Worker


def test_a_task_runs_and_its_tasks_are_published(worker: Worker, database: Database) -> None:
    ended = step_until(worker, database, create(database, "echo", value={"n": [1, None]}), *ENDED)
    assert (ended.status, ended.result, ended.worker) == (Status.COMPLETED, {"n": [1, None]}, None)
    with database.begin() as connection:
        assert {spec.name for spec in tasks.find(connection)} == {"detect", *app.tasks}


@pytest.mark.parametrize("how", ERRORS)
def test_no_error_of_a_task_stops_the_worker(worker: Worker, database: Database, how: str) -> None:
    """Whatever an exception says, it is stored: a worker that can't would meet it for ever."""
    ended = step_until(worker, database, create(database, "breaks", how=how), *ENDED)
    assert ended.status is Status.FAILED
    assert ended.error.startswith(type(ERRORS[how]).__name__)
    assert len(ended.error) < 5_000
    assert ended.attempts == 1


@pytest.mark.parametrize("what", ["result", "nul", "object", "nan"])
def test_what_can_not_be_stored_fails_its_scenario(
    worker: Worker, database: Database, what: str
) -> None:
    ended = step_until(worker, database, create(database, "odd", what=what), *ENDED)
    assert ended.status is Status.FAILED
    assert "JSON" in ended.error


def test_a_failed_run_waits_and_is_tried_again(worker: Worker, database: Database) -> None:
    scenario_id = create(database, "fails")
    ended = step_until(worker, database, scenario_id, Status.FAILED)
    assert ended.attempts == 2
    assert re.fullmatch(r"ValueError: again \(.*stepped_worker\.py:\d+\)", ended.error)
    with database.begin() as connection:
        changes = [one.to_status for one in scenarios.history(connection, scenario_id)]
    assert changes.count(Status.ACTIVE) == 2


@pytest.mark.parametrize("task", ["waits", "looks"])
def test_a_stop_reaches_a_task_without_frames_by_the_heartbeat(
    worker: Worker, database: Database, task: str
) -> None:
    scenario_id = create(database, task)
    step_until(worker, database, scenario_id, Status.ACTIVE)
    with database.begin() as connection:
        steering.stop(connection, scenario_id)
    assert worker.lease is not None
    worker.lease._beat()
    step_until(worker, database, scenario_id, Status.INACTIVE)


def test_who_meets_a_database_or_a_broker_that_is_away_is_tried_again_after_a_pause(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another deployment's: else it would run again and again, hundreds a second."""
    monkeypatch.setattr(execution, "UNAVAILABLE_SECONDS", 60.0)
    calls.clear()
    ids = [create(database, "forwards") for _ in range(2)]

    def reasons() -> set[str | None]:
        worker._polling.claim_now = True
        worker.run_once()
        with database.begin() as connection:
            return {scenarios.history(connection, one)[-1].reason for one in ids}

    assert eventually(
        lambda: reasons() == {f"requeued, due in 60 s: {error}" for error in AWAY}, 15
    )
    for _ in range(20):
        reasons()
    assert sorted(calls) == ids
    for one in ids:
        found = get(database, one)
        assert (found.status, found.attempts, found.crashes) == (Status.INIT_STARTUP, 0, 0)


def test_who_could_not_begin_without_the_database_goes_on_when_it_is_back(
    worker: Worker, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = lifecycle.start
    errors = [DatabaseUnavailable("for a test")]

    def away(*args: Any, **options: Any) -> dict[int, Status]:
        if errors:
            raise errors.pop()
        return start(*args, **options)

    monkeypatch.setattr(execution, "UNAVAILABLE_SECONDS", 60.0)
    monkeypatch.setattr(lifecycle, "start", away)
    new = NewScenario(str(encode(tmp_path / "a.mp4", 10)), "sees")
    with database.begin() as connection:
        scenario_id = creation.create(connection, new).id
    ended = step_until(worker, database, scenario_id, *ENDED)
    assert (ended.status, ended.result, ended.epoch) == (Status.COMPLETED, 10, 2)


def test_a_rejected_task_is_not_tried_again(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ERRORS, "nul", RejectedTask("it never will"))
    scenario_id = create(database, "breaks", how="nul")
    ended = step_until(worker, database, scenario_id, *ENDED)
    assert (ended.status, ended.error, ended.attempts) == (Status.FAILED, "it never will", 0)
