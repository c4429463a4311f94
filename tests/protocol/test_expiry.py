"""Expiry: which scenarios are released and charged when a lease has ended or a process died."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.scenarios import create, execute, fence_of, last_reason, row, status, stop
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import expiry, heartbeats, lifecycle, partitions
from vidan.protocol.changes import Moved
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.services import predictions


def expire(database: Database, **how: Any) -> dict[int, Moved]:
    with database.begin() as connection:
        _, any_ended = expiry.any_ended(connection)
        moved = {one.id: one for one in expiry.expire(connection, actor="test", **how)}
    assert any_ended or not moved  # the orchestrator asks first
    return moved


def any_ended(database: Database) -> bool:
    with database.begin() as connection:
        return expiry.any_ended(connection)[1]


def writes_of(database: Database, fence: Fence) -> dict[str, object]:
    """What each fenced write answers."""
    with database.begin() as connection:
        return {
            "start": lifecycle.start(connection, [fence], actor="w"),
            "shut_down": lifecycle.shut_down(connection, fence, actor="w"),
            "hand_over": lifecycle.hand_over(connection, [fence], reason="r", actor="w"),
            "fail": lifecycle.fail(connection, fence, "e", actor="w"),
            "finish": lifecycle.finish(
                connection, [lifecycle.Ending(fence, Status.COMPLETED)], actor="w"
            ),
        }


NOTHING = {"start": {}, "shut_down": False, "hand_over": set(), "fail": None, "finish": set()}


def long_ago(database: Database) -> datetime:
    with database.begin() as connection:
        found: datetime = connection.execute(text("SELECT now() - interval '1 h'")).scalar_one()
        return found


def test_sessions_and_rows_of_live_workers_are_left_alone(
    database: Database, database_url: str
) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    before = row(database, scenario_id)
    with closing(psycopg.connect(database_url, application_name=str(worker.id))) as session:
        assert expire(database, connected_since=long_ago(database)) == {}
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert row(database, scenario_id) == before


def test_a_lost_lease_is_put_back_uncounted(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.store(range(4))
    worker.let_lease_end()
    released = expire(database)
    assert released[scenario_id].row.died is False
    found = row(database, scenario_id)
    assert (found.status, found.crashes, found.attempts) == ("init_startup", 0, 0)
    assert (found.checkpoint, found.worker_id) == (4, None)
    assert found.due
    assert found.announced
    assert last_reason(database, scenario_id) == "the lease ended"
    assert expire(database) == {}
    assert writes_of(database, fence_of(worker)) == NOTHING


def test_a_worker_whose_row_is_gone_holds_nothing(database: Database) -> None:
    (scenario_id,) = create(database)
    PlayedWorker(database).claim()
    execute(database, "DELETE FROM workers")
    assert expire(database, connected_since=long_ago(database))[scenario_id].row.died is False
    assert status(database, scenario_id) is Status.INIT_STARTUP


def test_a_witness_of_the_whole_lease_charges_what_was_active(database: Database) -> None:
    active, opening = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    worker = PlayedWorker(database)
    claimed = worker.take(2)
    with database.begin() as connection:
        lifecycle.start(connection, [claimed[0].fence], actor="w")
    worker.let_lease_end()
    released = expire(database, connected_since=long_ago(database))
    assert released[active].row.died is True
    assert released[opening].row.died is False
    found = row(database, active)
    assert (found.crashes, found.attempts) == (1, 0)
    assert found.due  # the first crash: at once
    assert found.announced
    assert row(database, opening).crashes == 0
    assert last_reason(database, active) == "the worker died"


def test_who_connected_during_the_lease_is_no_witness(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.let_lease_end(seconds_ago=1.0)
    with database.begin() as connection:
        since = connection.execute(text("SELECT now() - interval '15 s'")).scalar_one()
    assert expire(database, connected_since=since)[scenario_id].row.died is False
    assert row(database, scenario_id).crashes == 0


def test_the_supervisor_charges_what_its_process_executed(database: Database) -> None:
    guilty, waiting, opening = create(database, *[NewScenario(source=f"/{n}") for n in range(3)])
    worker = PlayedWorker(database)
    claimed = worker.take(3)
    with database.begin() as connection:
        lifecycle.start(connection, [one.fence for one in claimed[:2]], actor="w")
    with database.begin() as connection:
        assert expiry.release_worker(
            connection, worker.id, actor="supervisor", executing=[guilty, opening]
        )
    assert [row(database, one).crashes for one in (guilty, waiting, opening)] == [1, 0, 1]
    assert {status(database, one) for one in (guilty, waiting, opening)} == {Status.INIT_STARTUP}
    with database.begin() as connection:
        state = connection.execute(text("SELECT state FROM workers")).scalar()
    assert state == "gone"
    # a witness that looks later charges nothing again
    assert expire(database, connected_since=long_ago(database)) == {}


def test_a_release_of_very_many_charges_whatever_its_process_executed(database: Database) -> None:
    """An orchestrator does not know which scenario executed: it would charge none of the rest."""
    many = create(database, *[NewScenario(source="/a")] * 1010)
    worker = PlayedWorker(database)
    fences = {one.fence.scenario_id: one.fence for one in worker.take(1010)}
    with database.begin() as connection:
        lifecycle.start(connection, [fences[many[-1]]], actor="w")
    with database.begin() as connection:
        assert expiry.release_worker(connection, worker.id, actor="s", executing=[many[-1]])
        assert heartbeats.held(connection, worker.id) == []
    assert row(database, many[-1]).crashes == 1
    assert row(database, many[0]).crashes == 0


def test_a_release_touches_no_other_worker(database: Database) -> None:
    first, second = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    dead, alive = PlayedWorker(database, "dead"), PlayedWorker(database, "alive")
    dead.claim()
    alive.claim()
    with database.begin() as connection:
        expiry.release_worker(connection, dead.id, actor="s", executing=[first, second])
    assert status(database, second) is Status.ACTIVE
    assert row(database, second).crashes == 0


def test_crashes_back_off_and_spend_their_budget(database: Database) -> None:
    (scenario_id,) = create(database)
    execute(database, "UPDATE scenarios SET max_crashes = 2, attempts = 1")
    for crash in (1, 2, 3):
        worker = PlayedWorker(database, suspects=True)
        worker.claim()
        with database.begin() as connection:
            expiry.release_worker(
                connection, worker.id, actor="s", executing=[scenario_id], cause="it stalled"
            )
        found = row(database, scenario_id)
        assert (found.crashes, found.attempts) == (crash, 1)
        if crash <= 2:
            assert found.status == "init_startup"
            assert found.announce_at == found.not_before
            assert found.due is (crash == 1)
            execute(database, "UPDATE scenarios SET not_before = now()")
    assert (found.status, found.announce_at) == ("failed", None)
    assert found.error == "it ended its worker process 3 times; at last it stalled"
    assert last_reason(database, scenario_id) == "it stalled"
    assert found.ended_at is not None


@pytest.mark.parametrize("in_shutdown", [False, True])
def test_a_stop_outlives_the_worker(database: Database, in_shutdown: bool) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    if in_shutdown:
        with database.begin() as connection:
            lifecycle.shut_down(connection, fence_of(worker), actor="w")
    with database.begin() as connection:
        expiry.release_worker(connection, worker.id, actor="s", executing=[scenario_id])
    found = row(database, scenario_id)
    assert (found.status, found.crashes, found.announce_at) == ("inactive", 0, None)
    assert found.ended_at is not None


def test_a_spent_budget_does_not_undo_a_stop(database: Database) -> None:
    (scenario_id,) = create(database)
    execute(database, "UPDATE scenarios SET max_crashes = 0")
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    with database.begin() as connection:
        expiry.release_worker(connection, worker.id, actor="s", executing=[scenario_id])
    assert status(database, scenario_id) is Status.INACTIVE


def test_it_is_known_whether_there_is_anything_to_expire(database: Database) -> None:
    create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    holder, idle, forgotten = (PlayedWorker(database, name) for name in "abc")
    holder.claim()
    forgotten.claim()
    assert not any_ended(database)
    for worker in (idle, holder):
        worker.let_lease_end()
        assert any_ended(database)
        expire(database)
        assert not any_ended(database)
    execute(database, "DELETE FROM workers WHERE id = :id", id=forgotten.id)
    assert any_ended(database)
    assert len(expire(database)) == 1
    assert not any_ended(database)


def test_two_that_expire_at_once_charge_once(database: Database) -> None:
    wanted = create(database, *[NewScenario(source=f"/{n}") for n in range(40)])
    worker = PlayedWorker(database)
    fences = [one.fence for one in worker.take(40)]
    with database.begin() as connection:
        lifecycle.start(connection, fences, actor="w")
    worker.let_lease_end()
    since = long_ago(database)
    released: list[int] = []
    threads = [
        threading.Thread(target=lambda: released.extend(expire(database, connected_since=since)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    released.extend(expire(database, connected_since=since))
    assert sorted(released) == wanted
    with database.begin() as connection:
        assert connection.execute(
            text("SELECT DISTINCT crashes FROM scenarios")
        ).scalars().all() == [1]


def test_a_row_that_was_released_and_claimed_meanwhile_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scenario_id,) = create(database)
    dead, alive = PlayedWorker(database, "dead"), PlayedWorker(database, "alive")
    dead.claim()
    dead.let_lease_end()
    # a statement that has begun, and sees what was then, comes to the row only later
    gate = "WHERE (SELECT 1 FROM pg_advisory_xact_lock_shared(7)) = 1 AND "
    slow = expiry._LOCK_ENDED.replace("WHERE ", gate)
    late: list[dict[int, Moved]] = []
    thread = threading.Thread(target=lambda: late.append(expire(database)))
    with database.begin() as holds_up:
        holds_up.execute(text("SELECT pg_advisory_xact_lock(7)"))
        with monkeypatch.context() as patched:
            patched.setattr(expiry, "_LOCK_ENDED", slow)
            thread.start()
            assert eventually(lambda: waits_for_an_advisory_lock(database))
        assert set(expire(database)) == {scenario_id}
        assert alive.claim() == scenario_id
    thread.join()
    assert late == [{}]
    assert row(database, scenario_id).worker_id == alive.id


def waits_for_an_advisory_lock(database: Database) -> bool:
    with database.begin() as connection:
        return bool(
            connection.execute(
                text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            ).scalar()
        )


@pytest.fixture
def stopped_client(database: Database, database_url: str) -> Iterator[tuple[PlayedWorker, int]]:
    """A worker that was stopped (Ctrl-Z, a debugger) in the middle of a commit's COPY."""
    first, _ = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    worker = PlayedWorker(database)
    claimed = worker.take(2)
    with database.begin() as connection:
        lifecycle.start(connection, [one.fence for one in claimed], actor="w")
        week = partitions.this_week(connection)
    session = psycopg.connect(database_url, application_name=str(worker.id))
    session.execute("UPDATE scenarios SET checkpoint = 5 WHERE id = %s", [first])
    with session.cursor() as cursor:
        copy = cursor.copy(
            "COPY predictions (scenario_id, frame, week, time_ms, label_ids, scores, boxes)"
            " FROM STDIN"
        )
        stopped = copy.__enter__()
        stopped.write_row((first, 0, week, 0, [], [], []))
        yield worker, first
    session.close()


def test_a_client_stopped_in_the_middle_of_copy_blocks_nobody(
    database: Database, stopped_client: tuple[PlayedWorker, int]
) -> None:
    worker, locked = stopped_client
    worker.let_lease_end()
    started = time.monotonic()
    released = set(expire(database))
    assert time.monotonic() - started < 4

    # its session is ended first, so its row is free in this round or the next
    def all_released() -> bool:
        released.update(expire(database))
        return locked in released

    assert eventually(all_released)
    assert len(released) == 2
    found = row(database, locked)
    assert (found.status, found.checkpoint) == ("init_startup", 0)
    execute(database, "UPDATE scenarios SET priority = 1 WHERE id = :id", id=locked)
    other = PlayedWorker(database, "other")
    assert other.claim() == locked
    other.store(range(3))
    with database.begin() as connection:
        assert len(predictions.read_after(connection, locked, -1)) == 3


def test_a_stopped_client_of_a_live_lease_is_left_alone(
    database: Database, stopped_client: tuple[PlayedWorker, int]
) -> None:
    worker, locked = stopped_client
    assert expire(database) == {}
    with database.begin() as connection:
        sessions = connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :id"),
            {"id": str(worker.id)},
        ).scalar()
    assert sessions == 1
    assert status(database, locked) is Status.ACTIVE


def test_the_supervisor_ends_such_a_session_too(
    database: Database, stopped_client: tuple[PlayedWorker, int]
) -> None:
    worker, locked = stopped_client

    def release() -> bool:
        with database.begin() as connection:
            return expiry.release_worker(connection, worker.id, actor="s", executing=[locked])

    assert eventually(release)
    assert row(database, locked).crashes == 1
