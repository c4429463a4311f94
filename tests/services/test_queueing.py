"""Places in queues: those in which claims really take rows; times of waiting and running."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import VIDEO, create, create_one, execute
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol.creation import NewScenario
from vidan.services import queueing, scenarios, steering
from vidan.services.scenarios import Scenario


def told(database: Database, scenario_id: int) -> Scenario:
    with database.begin() as connection:
        return queueing.told(connection, [scenarios.get(connection, scenario_id)])[0]


def positions(database: Database) -> dict[int, int | str | None]:
    with database.begin() as connection:
        found = queueing.told(connection, scenarios.find(connection, limit=5000))
    return {one.id: one.queue_position for one in found}


def test_places_are_those_in_which_claims_take_rows(database: Database) -> None:
    """Priorities, keys, delays, retries and other tasks: the claims decide."""
    now = datetime.now(UTC)
    create(
        database,
        replace(VIDEO, key="b"), replace(VIDEO, key="a"), VIDEO,
        replace(VIDEO, priority=5), replace(VIDEO, priority=-1),
        replace(VIDEO, not_before=now - timedelta(hours=2)),
        replace(VIDEO, not_before=now + timedelta(hours=2)),
        replace(VIDEO, queue="other"), replace(VIDEO, status=Status.INACTIVE),
    )  # fmt: skip
    create(database, VIDEO, replace(VIDEO, priority=5))
    execute(database, "UPDATE scenarios SET announce_at = NULL WHERE id IN (2, 3)")
    found = positions(database)
    assert (found[7], found[8], found[9]) == (None, 1, None)
    expected = sorted((place, one) for one, place in found.items() if one not in (7, 8, 9))
    assert [place for place, _ in expected] == list(range(1, 9))
    worker = PlayedWorker(database)
    for place, one in expected:
        assert positions(database)[one] == 1, f"{one} was at {place}"
        (claimed,) = worker.take()
        assert claimed.fence.scenario_id == one


def test_several_tasks_share_the_places_of_a_queue(database: Database) -> None:
    ids = create(database, VIDEO)
    execute(
        database,
        "INSERT INTO scenarios (task, definition, needs_source, priority)"
        " SELECT 'task ' || n % 7, n % 3, false, n FROM generate_series(1, 21) n",
    )
    found = positions(database)
    assert sorted(str(place) for place in found.values()) == sorted(map(str, range(1, 23)))
    assert found[ids[0]] == 22
    assert found[max(found)] == 1


def test_a_place_is_exact_to_a_thousand(database: Database) -> None:
    create(database, *[VIDEO] * 1002)
    found = positions(database)
    assert sum(isinstance(place, int) for place in found.values()) == 1000
    assert [one for one, place in found.items() if place == "1000+"] == [1002, 1001]


def test_a_place_is_cheap(database: Database) -> None:
    """A statement reads some thousand rows, however many wait."""
    execute(
        database,
        "INSERT INTO scenarios (source) SELECT '/v.mp4' FROM generate_series(1, 50000)",
    )
    with database.autocommit() as connection:
        connection.execute(text("ANALYZE scenarios"))
    with database.begin() as connection:
        plan = connection.execute(
            text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {queueing._FIRST}"),
            {"queues": ["default"], "exact": queueing.EXACT},
        ).scalar_one()
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 2500


@pytest.mark.parametrize(
    "changed", ["crashes = 2", "source_bound = true", "not_before = now() + interval '1 h'"]
)
def test_what_other_claims_pass_over_has_no_place(database: Database, changed: str) -> None:
    first, second = create(database, VIDEO, VIDEO)
    execute(database, f"UPDATE scenarios SET {changed} WHERE id = {first}")
    assert positions(database) == {first: None, second: 1}


def test_what_has_failed_tells_its_next_try(database: Database) -> None:
    one = create_one(database, replace(VIDEO, max_attempts=3))
    fresh = told(database, one)
    assert (fresh.retries_left, fresh.next_try_at, fresh.due_at) == (3, None, fresh.not_before)
    worker = PlayedWorker(database)
    worker.claim()
    execute(
        database,
        "UPDATE scenarios SET status = 'init_startup', worker_id = NULL, attempts = 2,"
        " not_before = now() + interval '1 min'",
    )
    found = told(database, one)
    assert (found.retries_left, found.next_try_at) == (1, found.not_before)
    assert found.queue_position is None
    assert found.as_json()["next_try_at"] == found.not_before.isoformat()


def test_times_are_those_of_the_history(database: Database) -> None:
    one = create_one(database)
    assert told(database, one).ran_seconds is None
    worker = PlayedWorker(database)
    worker.claim()
    worker.end(Status.FAILED, "broken")
    with database.begin() as connection:
        steering.retry(connection, one)
    worker.claim()
    execute(  # waited 10 s, ran 20 s, stood still for 1,000 s, waited 5 s, runs for 7 s
        database,
        "UPDATE transitions SET at = now() - make_interval(secs => (ARRAY"
        "[1042, 1032, 1032, 1012, 12, 7, 7])[id])",
    )
    found = told(database, one)
    assert found.waited_seconds == pytest.approx(15, abs=0.5)
    assert found.ran_seconds == pytest.approx(27, abs=2)


def test_a_scenario_without_a_history_has_waited_no_time(database: Database) -> None:
    one = create_one(database, NewScenario(status=Status.INACTIVE))
    execute(database, "DELETE FROM transitions")
    assert (told(database, one).waited_seconds, told(database, one).ran_seconds) == (0, None)
