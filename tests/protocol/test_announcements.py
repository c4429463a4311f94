"""Announcements: each due scenario goes to one orchestrator, and none is forgotten."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import announcements, creation, lifecycle
from vidan.protocol.creation import NewScenario
from vidan.services import steering


def create(database: Database, count: int = 1) -> list[int]:
    with database.begin() as connection:
        news = [NewScenario(source=f"/{n}.mp4") for n in range(count)]
        return [one.id for one in creation.create_many(connection, news)]


def take(database: Database, limit: int = 1000) -> list[int]:
    with database.begin() as connection:
        return announcements.take_due(connection, limit)


def restart(database: Database, *ids: int) -> set[int]:
    with database.begin() as connection:
        return announcements.plan_retries(connection, ids)


def again(database: Database, *ids: int, delay: float = 0.0) -> None:
    with database.begin() as connection:
        announcements.announce_again(connection, ids, delay=delay)


def test_what_is_due_is_taken_once(database: Database) -> None:
    wanted = create(database, 5)
    assert sorted(take(database, 3) + take(database, 3)) == wanted
    assert take(database) == []


def test_two_at_once_share(database: Database) -> None:
    wanted = create(database, 10)
    with database.begin() as first:
        mine = announcements.take_due(first, 4)
        others = take(database)  # while the first has not committed
    assert sorted(mine + others) == wanted
    assert len(mine) == 4


def test_many_at_once_take_each_once(database: Database) -> None:
    wanted = create(database, 200)
    taken: list[int] = []

    def work() -> None:
        while found := take(database, 7):
            taken.extend(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken + take(database)) == wanted


def test_one_that_dies_before_it_commits_has_taken_nothing(database: Database) -> None:
    wanted = create(database, 2)
    with pytest.raises(KeyboardInterrupt), database.begin() as connection:
        announcements.take_due(connection)
        raise KeyboardInterrupt
    assert sorted(take(database)) == wanted


def test_what_is_not_due_waits(database: Database) -> None:
    create(database)
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET announce_at = now() + interval '30 s'"))
    assert take(database) == []
    with database.begin() as connection:
        due = announcements.next_due(connection)
        assert due is not None
        assert timedelta(seconds=25) < due <= timedelta(seconds=30)
        connection.execute(text("UPDATE scenarios SET announce_at = now() - interval '9 s'"))
        due = announcements.next_due(connection)
        assert due is not None
        assert due < timedelta(0)
    assert len(take(database)) == 1
    with database.begin() as connection:
        assert announcements.next_due(connection) is None


def test_a_failed_announcement_is_due_again_only_where_it_still_waits(database: Database) -> None:
    waiting, claimed, stopped = create(database, 3)
    take(database)
    worker = PlayedWorker(database)
    worker.take(1, skip=[waiting, stopped])
    with database.begin() as connection:
        steering.stop(connection, stopped)
    again(database, waiting, claimed, stopped, 999)
    assert take(database) == [waiting]
    again(database)
    again(database, waiting, delay=30)
    assert take(database) == []


def test_a_failed_announcement_is_not_due_before_its_scenario(database: Database) -> None:
    (scenario_id,) = create(database)
    take(database)
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET not_before = now() + interval '60 s'"))
    again(database, scenario_id)
    with database.begin() as connection:
        due = announcements.next_due(connection)
    assert due is not None
    assert due > timedelta(seconds=50)


def test_a_failed_announcement_does_not_outrank_a_newer_one(database: Database) -> None:
    (scenario_id,) = create(database)
    again(database, scenario_id, delay=60)  # another transaction has set it meanwhile
    assert take(database) == [scenario_id]


def test_a_restart_plans_for_when_the_retry_is_due(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    assert worker.fence is not None
    with database.begin() as connection:
        lifecycle.fail(connection, worker.fence, "e", actor="w", delay=40)
        assert announcements.next_due(connection) is None
    assert restart(database, scenario_id, 999) == {scenario_id}
    with database.begin() as connection:
        planned = connection.execute(text("SELECT announce_at = not_before FROM scenarios"))
        assert planned.scalar() is True
        connection.execute(text("UPDATE scenarios SET not_before = now() - interval '1 h'"))
    assert restart(database, scenario_id) == {scenario_id}
    assert take(database) == [scenario_id]


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.INIT_STARTUP}))
def test_a_restart_passes_over_every_other_status(database: Database, status: Status) -> None:
    (scenario_id,) = create(database)
    with database.begin() as connection:
        connection.execute(
            text("UPDATE scenarios SET status = :status, announce_at = NULL"), {"status": status}
        )
    assert restart(database, scenario_id) == set()
    with database.begin() as connection:
        found = connection.execute(text("SELECT status, announce_at FROM scenarios")).one()
    assert found == (status, None)


def test_whoever_listens_is_woken_when_the_transaction_commits(
    database: Database, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute(f"LISTEN {announcements.CHANNEL}")
        create(database, 3)
        assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1
        assert list(listener.notifies(timeout=0.05)) == []  # coalesced


def test_restarts_and_failures_in_opposite_orders_make_no_deadlock(database: Database) -> None:
    wanted = create(database, 30)
    take(database)
    failures: list[BaseException] = []

    def work(ids: list[int]) -> None:
        try:
            for _ in range(20):
                restart(database, *ids)
                again(database, *ids)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(ids,)) for ids in (wanted, wanted[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
