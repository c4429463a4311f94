"""Steering: every request of a user, from every status."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import product

import pytest
from sqlalchemy import Connection, text

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import create_one, get, in_status
from vidan.db.session import Database
from vidan.domain.detection import Gap
from vidan.domain.status import ENDED, HELD, RUNNING, Status
from vidan.errors import NotAllowedError, NotFoundError
from vidan.protocol import partitions
from vidan.services import predictions, scenarios, steering

YES, ALREADY, NO = True, False, None


START = {Status.ACTIVE, Status.INIT_STARTUP}


STOP = {Status.INACTIVE, Status.INIT_SHUTDOWN}


# what a request answers: it changed, it was so already (or is being fulfilled), or it is refused
STARTS = {
    Status.INIT_STARTUP: ALREADY,
    Status.INIT_STARTUP_PROCESSING: ALREADY,
    Status.ACTIVE: ALREADY,
    Status.INIT_SHUTDOWN: NO,
    Status.IN_SHUTDOWN_PROCESSING: NO,
    Status.INACTIVE: YES,
    Status.COMPLETED: NO,
    Status.FAILED: YES,
}


STOPS = {
    Status.INIT_STARTUP: YES,
    Status.INIT_STARTUP_PROCESSING: YES,
    Status.ACTIVE: YES,
    Status.INIT_SHUTDOWN: ALREADY,
    Status.IN_SHUTDOWN_PROCESSING: ALREADY,
    Status.INACTIVE: ALREADY,
    Status.COMPLETED: NO,
    Status.FAILED: NO,
}


def assert_answer(
    database: Database, ask: Callable[[Connection], object], answer: bool | None
) -> None:
    if answer is None:
        with pytest.raises(NotAllowedError) as refused, database.begin() as connection:
            ask(connection)
        assert refused.value.hint
    else:
        with database.begin() as connection:
            assert ask(connection) in (answer, None)


def after_start(status: Status) -> Status:
    return Status.INIT_STARTUP if STARTS[status] else status


def after_stop(status: Status) -> Status:
    if not STOPS[status]:
        return status
    return Status.INACTIVE if status is Status.INIT_STARTUP else Status.INIT_SHUTDOWN


def asked(scenario_id: int, wanted: Status, connection: Connection) -> bool:
    return steering.request(connection, scenario_id, wanted)


@pytest.mark.parametrize("status", Status)
def test_every_request_from_every_status(database: Database, status: Status) -> None:
    for wanted in Status:
        scenario_id = in_status(database, status)
        answer = STARTS[status] if wanted in START else STOPS[status] if wanted in STOP else NO
        assert_answer(database, partial(asked, scenario_id, wanted), answer)
        expected = status
        if wanted in START:
            expected = after_start(status)
        elif wanted in STOP:
            expected = after_stop(status)
        assert get(database, scenario_id).status is expected
        with database.begin() as connection:  # nothing that later claims of this test may take
            connection.execute(text("UPDATE scenarios SET queue = 'done'"))


@pytest.mark.parametrize(("status", "verb"), list(product(Status, ["retry", "delete", "again"])))
def test_retry_delete_and_start_from_the_beginning(
    database: Database, status: Status, verb: str
) -> None:
    scenario_id = in_status(database, status)
    ask: dict[str, Callable[[Connection], object]] = {
        "retry": lambda c: steering.retry(c, scenario_id),
        "delete": lambda c: steering.delete(c, scenario_id),
        "again": lambda c: steering.start(c, scenario_id, from_beginning=True),
    }
    allowed = {"retry": {Status.FAILED}, "delete": ENDED, "again": ENDED}[verb]
    assert_answer(database, ask[verb], YES if status in allowed else NO)
    if status not in allowed:
        assert get(database, scenario_id).status is status
    elif verb == "delete":
        with pytest.raises(NotFoundError):
            get(database, scenario_id)
    else:
        assert get(database, scenario_id).status is Status.INIT_STARTUP


def test_a_status_that_only_workers_set_is_refused_with_the_others_named(
    database: Database,
) -> None:
    scenario_id = create_one(database)
    for wanted in set(Status) - steering.REQUESTABLE:
        with pytest.raises(NotAllowedError) as refused, database.begin() as connection:
            steering.request(connection, scenario_id, wanted)
        assert all(one in (refused.value.hint or "") for one in steering.REQUESTABLE)


def test_start_goes_on_at_the_checkpoint_with_fresh_budgets(database: Database) -> None:
    scenario_id = in_status(database, Status.FAILED)
    with database.begin() as connection:
        connection.execute(
            text(
                "UPDATE scenarios SET attempts = 3, crashes = 2,"
                " not_before = now() + interval '1 h'"
            )
        )
        before = scenarios.get(connection, scenario_id)
        steering.start(connection, scenario_id)
    after = get(database, scenario_id)
    assert (after.attempts, after.crashes, after.error, after.ended_at) == (0, 0, None, None)
    assert after.checkpoint == before.checkpoint == 2
    with database.begin() as connection:
        due = connection.execute(
            text("SELECT not_before <= now() AND announce_at <= now() FROM scenarios")
        ).scalar()
        assert due is True
        assert len(predictions.read_after(connection, scenario_id, -1)) == 2
    assert PlayedWorker(database).claim() == scenario_id


def test_from_the_beginning_drops_all_that_was_stored(database: Database) -> None:
    scenario_id = create_one(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.store(range(5), gaps=[Gap(3, 3, "damage")], total=9)
    worker.end(Status.COMPLETED)
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET week = week, state = '{\"n\": 5}'"))
        steering.start(connection, scenario_id, from_beginning=True)
        after = scenarios.get(connection, scenario_id)
        assert (after.checkpoint, after.state, after.frames_done) == (0, {}, 0)
        assert (after.frames_total, after.started_at, after.result) == (None, None, None)
        assert predictions.read_after(connection, scenario_id, -1) == []
        assert scenarios.gaps(connection, scenario_id) == []
        assert predictions.summary(connection, scenario_id).frames == 0
    again = PlayedWorker(database)
    assert again.claim() == scenario_id
    again.store(range(5))


def test_from_the_beginning_moves_into_the_current_week(database: Database) -> None:
    scenario_id = in_status(database, Status.INACTIVE)
    with database.begin() as connection:
        this_week = partitions.this_week(connection)
        old = this_week - timedelta(weeks=60)
        partitions.ensure_week(connection, old)
        connection.execute(text("UPDATE scenarios SET week = :old"), {"old": old})
        steering.start(connection, scenario_id, from_beginning=True)
        assert connection.execute(text("SELECT week FROM scenarios")).scalar() == this_week


def test_delete_leaves_nothing_of_it_and_all_of_others(database: Database) -> None:
    scenario_id = in_status(database, Status.COMPLETED)
    other = in_status(database, Status.COMPLETED)
    with database.begin() as connection:
        steering.delete(connection, scenario_id)
        for table, column in [
            ("predictions", "scenario_id"),
            ("transitions", "scenario_id"),
            ("gaps", "scenario_id"),
            ("scenarios", "id"),
        ]:
            left = connection.execute(text(f"SELECT DISTINCT {column} FROM {table}")).scalars()
            assert set(left) <= {other}
        assert len(predictions.read_after(connection, other, -1)) == 2


@pytest.mark.parametrize("status", sorted(RUNNING))
def test_a_stop_waits_for_the_worker_that_holds_the_scenario(
    database: Database, status: Status
) -> None:
    scenario_id = in_status(database, status)
    with database.begin() as connection:
        assert steering.stop(connection, scenario_id, actor="me")
    found = get(database, scenario_id)
    assert found.status is Status.INIT_SHUTDOWN
    assert found.worker == "cpu-0@test"
    assert found.ended_at is None
    assert found.status in HELD
    with database.begin() as connection:
        assert scenarios.history(connection, scenario_id)[-1].actor == "me"
