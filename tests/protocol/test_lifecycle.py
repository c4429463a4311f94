"""Start, finish, failure and hand-over of claimed scenarios."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import create, execute, fence_of, last_reason, row, status, stop
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import lifecycle
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios, steering


def test_start_repeated_after_a_lost_answer_says_the_same(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    for _ in range(2):
        with database.begin() as connection:
            found = lifecycle.start(connection, [claimed.fence], actor="w")
        assert found == {scenario_id: Status.ACTIVE}
    with database.begin() as connection:
        assert len(scenarios.history(connection, scenario_id)) == 3


def test_a_stop_while_the_source_opens_is_no_lost_lease(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    stop(database, scenario_id)
    with database.begin() as connection:
        assert lifecycle.start(connection, [claimed.fence], actor="w") == {
            scenario_id: Status.INIT_SHUTDOWN
        }
        assert lifecycle.shut_down(connection, claimed.fence, actor="w")
        ending = lifecycle.Ending(claimed.fence, Status.INACTIVE)
        assert lifecycle.finish(connection, [ending], actor="w") == {scenario_id}
    ended = row(database, scenario_id)
    assert (ended.status, ended.worker_id, ended.announce_at) == ("inactive", None, None)
    assert ended.ended_at is not None


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}, {"n": [1, None]}, "text"])
def test_a_result_is_stored_as_it_is_and_none_as_null(database: Database, result: object) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    ending = lifecycle.Ending(
        fence_of(worker), Status.COMPLETED, result=json.dumps(result), state='{"k": 1}'
    )
    with database.begin() as connection:
        lifecycle.finish(connection, [ending], actor="w")
        found = scenarios.get(connection, scenario_id)
        is_null = connection.execute(text("SELECT result IS NULL FROM scenarios")).scalar()
    assert (found.status, found.result, found.state) == (Status.COMPLETED, result, {"k": 1})
    assert is_null is (result is None)


def test_a_task_without_frames_completes_by_way_of_active(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    with database.begin() as connection:
        lifecycle.finish(connection, [lifecycle.Ending(claimed.fence, Status.COMPLETED)], actor="w")
        history = scenarios.history(connection, scenario_id)
    assert [one.to_status for one in history[-2:]] == [Status.ACTIVE, Status.COMPLETED]


def test_a_source_that_can_not_be_read_was_never_active(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    with database.begin() as connection:
        lifecycle.finish(
            connection,
            [lifecycle.Ending(claimed.fence, Status.FAILED, error="no video")],
            actor="w",
        )
        found = scenarios.get(connection, scenario_id)
        history = scenarios.history(connection, scenario_id)
    assert (found.status, found.error, found.started_at) == (Status.FAILED, "no video", None)
    assert Status.ACTIVE not in [one.to_status for one in history]


@pytest.mark.parametrize(
    ("ending", "becomes"),
    [
        (Status.COMPLETED, Status.COMPLETED),  # the task had returned when the stop came
        (Status.INACTIVE, Status.INACTIVE),
        (Status.FAILED, Status.INACTIVE),
    ],
)
def test_how_a_scenario_that_was_asked_to_stop_ends(
    database: Database, ending: Status, becomes: Status
) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    worker.end(ending)
    assert status(database, scenario_id) is becomes


def test_an_error_is_charged_until_the_budget_is_spent(database: Database) -> None:
    (scenario_id,) = create(database, NewScenario(source="/a", max_attempts=2))
    worker = PlayedWorker(database)
    for attempt in (1, 2, 3):
        worker.claim()
        with database.begin() as connection:
            failed = lifecycle.fail(
                connection, fence_of(worker), f"error {attempt}", actor="w", delay=60
            )
        assert failed is not None
        assert failed.attempts == attempt
        now = row(database, scenario_id)
        assert (now.error, now.worker_id, now.announce_at) == (f"error {attempt}", None, None)
        if attempt <= 2:
            assert failed.status is Status.INIT_STARTUP
            assert not now.due
            assert now.ended_at is None
            assert worker.take() == []
            execute(database, "UPDATE scenarios SET not_before = now()")
    assert failed is not None
    assert failed.status is Status.FAILED
    assert now.ended_at is not None
    with database.begin() as connection:
        assert steering.retry(connection, scenario_id)
    assert worker.claim() == scenario_id


def test_the_back_off_grows_with_jitter(database: Database) -> None:
    (scenario_id,) = create(database, NewScenario(source="/a", max_attempts=1000))
    worker = PlayedWorker(database)
    for attempts, low, high in [(0, 0.5, 1), (3, 4, 8), (9, 150, 300), (900, 150, 300)]:
        execute(database, "UPDATE scenarios SET attempts = :n, not_before = now()", n=attempts)
        worker.claim()
        with database.begin() as connection:
            lifecycle.fail(connection, fence_of(worker), "e", actor="w")
            found = connection.execute(text("SELECT not_before - now() FROM scenarios"))
            wait: timedelta = found.scalar_one()
        assert timedelta(seconds=low) <= wait <= timedelta(seconds=high)
    execute(database, "UPDATE scenarios SET not_before = now()")
    worker.claim()
    with database.begin() as connection:
        lifecycle.fail(connection, fence_of(worker), "e", actor="w", delay=0.0)
    assert row(database, scenario_id).due


def test_an_error_of_one_that_was_asked_to_stop_ends_it(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    with database.begin() as connection:
        failed = lifecycle.fail(connection, fence_of(worker), "e", actor="w")
    assert failed is not None
    assert failed.status is Status.INACTIVE
    assert row(database, scenario_id).ended_at is not None


def test_a_hand_over_spends_nothing_and_is_announced(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.store(range(3))
    with database.begin() as connection:
        assert lifecycle.hand_over(connection, [fence_of(worker)], reason="leaving", actor="w") == {
            scenario_id
        }
    found = row(database, scenario_id)
    assert (found.status, found.attempts, found.crashes) == ("init_startup", 0, 0)
    assert (found.checkpoint, found.worker_id, found.ended_at) == (3, None, None)
    assert found.due
    assert found.announced
    assert last_reason(database, scenario_id) == "leaving"
    assert PlayedWorker(database).claim() == scenario_id


def test_a_hand_over_may_be_for_later(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    with database.begin() as connection:
        lifecycle.hand_over(connection, [fence_of(worker)], reason="away", actor="w", delay=60)
    found = row(database, scenario_id)
    assert (found.status, found.due) == ("init_startup", False)
    assert found.announce_at == found.not_before


def test_a_hand_over_never_undoes_a_stop(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    with database.begin() as connection:
        lifecycle.hand_over(connection, [fence_of(worker)], reason="leaving", actor="w")
    found = row(database, scenario_id)
    assert (found.status, found.announce_at) == ("inactive", None)
    assert found.ended_at is not None
