"""Behind a connection pooler, and in a database with settings of its own."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import text

from tests.support.odd_settings import ODD, make_odd
from tests.support.pooler import Pooler, pooled
from tests.support.shell import Shell
from vidan.db import schema, settings
from vidan.db.session import Database
from vidan.errors import DatabaseUnavailable, UsageError
from vidan.stack.postgres import PostgresServer

NAMES = [*settings.server_settings(guarded=False, durable=True), "idle_session_timeout"]
SHOWN = text("SELECT name, current_setting(name) FROM unnest(CAST(:names AS text[])) AS name")


def found_settings(database: Database) -> dict[str, str]:
    with database.begin() as connection:
        rows = connection.execute(SHOWN, {"names": NAMES})
        found = {str(name): str(value) for name, value in rows}
        found["isolation"] = connection.execute(text("SHOW transaction_isolation")).scalar_one()
        assert connection.execute(text("SHOW client_encoding")).scalar() == "UTF8"
        return found


@pytest.fixture
def plain(database: Database) -> dict[str, str]:
    """What the sessions of a database without settings of its own are set to."""
    return found_settings(database)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("way", ["direct", "transaction", "session"])
def test_the_settings_of_a_database_change_nothing(
    way: str,
    guarded: bool,
    plain: dict[str, str],
    empty_database_url: str,
    postgres: PostgresServer,
) -> None:
    make_odd(empty_database_url)
    with pooled(postgres, way if way != "direct" else "session", size=1) as pooler:
        url = empty_database_url if way == "direct" else pooler.url(empty_database_url)
        with closing(Database(url, guarded=guarded, direct=way == "direct")) as odd:
            found = found_settings(odd)
            with odd.autocommit() as connection:
                assert (
                    connection.execute(text("SELECT now()")).scalar_one().utcoffset() == timedelta()
                )
                assert connection.execute(text("SELECT 0.1::float8 + 0.2")).scalar() == 0.1 + 0.2
                assert connection.execute(text(r"SELECT 'a\b'")).scalar() == "a\\b"
    expected = dict(plain)
    if guarded:
        limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        expected |= dict.fromkeys(limits, "5s")
    assert found == expected
    assert set(ODD) & set(NAMES) >= {"search_path", "DateStyle", "TimeZone", "statement_timeout"}


def test_a_long_statement_outlasts_the_time_outs_of_a_database(
    pooler: Pooler, empty_database_url: str
) -> None:
    make_odd(empty_database_url)
    for url in (empty_database_url, pooler.url(empty_database_url)):
        with closing(Database(url)) as odd, odd.begin() as connection:
            connection.execute(text("SELECT pg_sleep(1.3)"))
            time.sleep(2.2)
            connection.execute(text("SELECT 1"))


def test_options_of_the_url_win_over_the_neutral_settings(
    pooler: Pooler, database_url: str
) -> None:
    options = "&options=-c%20search_path%3Delse,%5C%20where%20--statement_timeout%3D7s"
    for url in (database_url, pooler.url(database_url)):
        with closing(Database(url + options, guarded=True)) as database:
            found = found_settings(database)
            assert (found["search_path"], found["statement_timeout"]) == ("else, where", "7s")
        wrong = url + "&options=-c%20statement_timeout%3Dsoon"
        with (
            closing(Database(wrong)) as database,
            pytest.raises(UsageError, match="statement_timeout"),
            database.begin(),
        ):
            pass
    with (
        closing(Database(database_url + options, direct=True)) as database,
        closing(database.listen()) as listening,
    ):
        assert listening.execute("SHOW statement_timeout").fetchone() == ("7s",)


def test_nothing_is_left_in_the_sessions_of_a_pooler(
    pooler: Pooler, pooler_mode: str, database_url: str
) -> None:
    url = pooler.url(database_url)
    with closing(Database(url, guarded=True)) as database:
        assert database.is_pooled()
        for number in range(20):
            with database.begin() as connection:
                assert (
                    connection.execute(text("SELECT :n + 1"), {"n": number}).scalar() == number + 1
                )
        if pooler_mode == "transaction":
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as another:
                assert another.execute("SHOW statement_timeout").fetchone() == ("0",)
                assert another.execute("SHOW enable_seqscan").fetchone() == ("on",)
                assert another.execute("SELECT * FROM pg_prepared_statements").fetchall() == []
                assert another.execute("SELECT * FROM pg_cursors").fetchall() == []


def test_clients_that_share_a_session_do_not_meet(pooler: Pooler, database_url: str) -> None:
    """Without a limit of the pool, a prepared statement of one is run by another."""
    url = pooler.url(database_url)
    wrong: list[object] = []

    def ask(constant: int) -> None:
        with closing(Database(url)) as database:
            for number in range(30):
                with database.begin() as connection:
                    given = {"n": number}
                    found = connection.execute(text(f"SELECT {constant} + :n"), given).scalar()
                    if found != constant + number:
                        wrong.append(found)

    threads = [threading.Thread(target=ask, args=(1000 * one,)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_process_id_made_up_by_a_pooler_ends_nobody(
    pooler: Pooler, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidan.db.bounded.SILENCE_SECONDS", 0.3)
    with closing(Database(pooler.url(database_url), guarded=True)) as database:
        with pytest.raises(DatabaseUnavailable), database.begin() as connection:
            connection.execute(text("SELECT pg_sleep(2)"))
        assert database._silent == set()
    with closing(Database(database_url, guarded=True)) as database:
        with pytest.raises(DatabaseUnavailable), database.begin() as connection:
            connection.execute(text("SELECT pg_sleep(2)"))
        assert len(database._silent) == 1


def test_who_needs_sessions_refuses_a_pooler(pooler: Pooler, database_url: str) -> None:
    with closing(Database(pooler.url(database_url), direct=True, guarded=True)) as database:
        for use in (database.begin, database.autocommit):
            with pytest.raises(UsageError, match="connection pooler") as caught, use():
                pass
            assert "VIDAN_DIRECT_DATABASE_URL" in str(caught.value.hint)
        with pytest.raises(UsageError, match="connection pooler"):
            database.listen()
    with closing(Database(database_url, direct=True)) as database:
        assert not database.is_pooled()
        with database.begin():
            pass


@pytest.mark.parametrize("words", [("worker", "--cpus", "1"), ("orchestrator",)])
def test_workers_and_orchestrators_name_the_variable_to_set(
    words: tuple[str, ...], pooler: Pooler, database_url: str, bare: Shell
) -> None:
    secret = pooler.url(database_url).replace("vidan@", "vidan:tr0ub4dor@")
    ended = bare.run(*words, DATABASE_URL=secret)
    assert ended.code == 2
    assert "is a connection pooler" in ended.err
    assert "VIDAN_DIRECT_DATABASE_URL" in ended.err
    assert "tr0ub4dor" not in ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) == 2
    assert bare.run(*words, DATABASE_URL=database_url, VIDAN_DIRECT_DATABASE_URL=secret).code == 2


def test_statement_mode_is_refused_by_name(postgres: PostgresServer, database_url: str) -> None:
    with (
        pooled(postgres, "statement", size=2) as pooler,
        closing(Database(pooler.url(database_url))) as database,
    ):
        for use in (database.begin, database.autocommit):
            with pytest.raises(UsageError, match="statement mode"), use() as connection:
                connection.execute(text("SELECT 1"))


def test_the_schema_is_migrated_through_a_pooler(pooler: Pooler, empty_database_url: str) -> None:
    """Two at once: the lock that orders them ends with the transaction."""
    url = pooler.url(empty_database_url)
    failed: list[BaseException] = []

    def upgrade() -> None:
        try:
            schema.upgrade(url)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    threads[0].start()
    threads[0].join()
    assert failed == []
    assert schema.current(url) == schema.HEAD
    schema.downgrade(url, "-1")
    schema.upgrade(url)
    with psycopg.connect(empty_database_url) as connection:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.execute(query).fetchone() == (0,)


def test_times_come_in_utc(pooler: Pooler, empty_database_url: str) -> None:
    make_odd(empty_database_url)
    for url in (empty_database_url, pooler.url(empty_database_url)):
        with closing(Database(url)) as database, database.begin() as connection:
            now = connection.execute(text("SELECT now()")).scalar_one()
            assert now.isoformat().endswith("+00:00")
            assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
            week = text("SELECT date_trunc('week', timestamptz '2026-01-04 23:30+00')::date")
            assert connection.execute(week).scalar_one().isoformat() == "2025-12-29"
