"""One partition a week: made once by all callers, also while readers hold the table."""

from __future__ import annotations

import threading
from datetime import date, timedelta

import psycopg
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.protocol import creation, partitions
from vidan.protocol.creation import NewScenario
from vidan.services import predictions

WEEK = date(2024, 1, 1)


def names(database: Database) -> list[str]:
    with database.begin() as connection:
        found = connection.execute(
            text(
                "SELECT inhrelid::regclass::text FROM pg_inherits"
                " WHERE inhparent = 'predictions'::regclass ORDER BY 1"
            )
        )
        return list(found.scalars())


def test_a_partition_is_made_once(database: Database) -> None:
    assert names(database) == []
    with database.begin() as connection:
        assert partitions.ensure_week(connection, WEEK)
        assert not partitions.ensure_week(connection, WEEK)
    with database.begin() as connection:
        assert not partitions.ensure_week(connection, WEEK)
    assert names(database) == ["predictions_20240101"]


def test_many_at_once_make_it_once(database: Database) -> None:
    made: list[bool] = []
    barrier = threading.Barrier(4)

    def make() -> None:
        barrier.wait()
        with database.begin() as connection:
            made.append(partitions.ensure_week(connection, WEEK))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]


def test_what_was_rolled_back_is_made_by_the_next(database: Database) -> None:
    connection = database._engine.connect()
    partitions.ensure_week(connection, WEEK)
    connection.rollback()
    connection.close()
    assert names(database) == []
    with database.begin() as again:
        assert partitions.ensure_week(again, WEEK)


def test_neither_readers_nor_a_copy_hold_it_up(database: Database, database_url: str) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
        week = partitions.this_week(connection)
    with psycopg.connect(database_url) as reader, psycopg.connect(database_url) as writer:
        reader.execute("SELECT count(*) FROM predictions")
        with writer.cursor() as cursor:
            cursor.execute("INSERT INTO predictions VALUES (1, 1, %s, 0, '{}', '{}', '{}')", [week])
        with database.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
            assert partitions.ensure_week(connection, WEEK)
            assert partitions.ensure_week(connection, WEEK + timedelta(weeks=1))
            # nor does it hold up who comes while this transaction is open
            reader.execute("SELECT count(*) FROM predictions")
            with writer.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO predictions VALUES (1, 2, %s, 0, '{}', '{}', '{}')", [week]
                )
        assert reader.execute("SELECT 1").fetchone() == (1,)


def test_this_week_and_two_more_are_made_ahead(database: Database) -> None:
    with database.begin() as connection:
        monday = partitions.this_week(connection)
        assert monday.weekday() == 0
        wanted = [monday + timedelta(weeks=ahead) for ahead in range(3)]
        assert partitions.ensure_ahead(connection) == wanted
        assert partitions.ensure_ahead(connection) == []
    assert names(database) == [f"predictions_{week:%Y%m%d}" for week in wanted]


def test_a_week_begins_on_monday_in_utc_wherever_the_session_is(database: Database) -> None:
    with database.begin() as connection:
        weeks = set()
        for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):  # a day apart
            connection.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
            weeks.add(partitions.this_week(connection))
        assert len(weeks) == 1
        found = connection.execute(text("SELECT (now() AT TIME ZONE 'UTC')::date")).scalar_one()
    assert weeks == {found - timedelta(days=found.weekday())}


def test_there_is_no_default_partition(database: Database) -> None:
    with database.begin() as connection:
        partitions.ensure_ahead(connection)
        found = connection.execute(
            text(
                "SELECT partdefid FROM pg_partitioned_table"
                " WHERE partrelid = 'predictions'::regclass"
            )
        )
        assert found.scalar() == 0


def test_a_partition_has_the_primary_key(database: Database) -> None:
    with database.begin() as connection:
        partitions.ensure_week(connection, WEEK)
        found = connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE tablename = 'predictions_20240101'")
        ).scalars()
        (definition,) = found
    assert "UNIQUE" in definition
    assert "(scenario_id, frame, week)" in definition


def test_a_scenario_of_an_older_week_keeps_its_partition(database: Database) -> None:
    with database.begin() as connection:
        scenario_id = creation.create(connection, NewScenario(source="/a.mp4")).id
        partitions.ensure_week(connection, WEEK)
        connection.execute(text("UPDATE scenarios SET week = :week"), {"week": WEEK})
    worker = PlayedWorker(database)
    worker.claim()
    worker.store(range(5))
    with database.begin() as connection:
        assert len(predictions.read_after(connection, scenario_id, -1)) == 5
        found = connection.execute(text("SELECT count(*) FROM predictions_20240101"))
        assert found.scalar() == 5
