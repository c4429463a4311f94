"""Errors of the database by their type: unavailable, in a conflict, or a wrong statement."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.support.processes import eventually
from vidan.db import bounded, session
from vidan.db.session import Database, DatabaseConflict
from vidan.errors import DatabaseUnavailable
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios


def test_an_exception_rolls_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        creation.create(connection, NewScenario(source="/a"))
        _ = 1 / 0
    with database.begin() as connection:
        assert scenarios.find(connection) == []


def test_an_unreachable_server_is_unavailable(tmp_path: Path) -> None:
    for url in (f"postgresql://a@/b?host={tmp_path}", "postgresql://a@127.0.0.1:1/b"):
        absent = Database(url)
        with pytest.raises(DatabaseUnavailable) as raised, absent.begin():
            pass
        assert "\n" not in str(raised.value)
        assert "DATABASE_URL" in (raised.value.hint or "")
        with pytest.raises(DatabaseUnavailable):
            absent.listen()


def test_a_session_that_is_ended_is_unavailable_and_the_next_works(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable), database.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with database.begin() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_sessions_that_ended_in_the_pool_are_not_used(
    database: Database, database_url: str
) -> None:
    with database.begin() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
    with Database(database_url).begin() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 1000)"), {"pid": pid})
    with database.begin() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


@pytest.mark.parametrize("pooled", [True, False])
def test_a_server_that_ends_each_new_session_is_unavailable(
    database: Database, pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that shuts down, or a proxy before one that is gone."""

    def ended(_: object) -> bool:
        raise psycopg.OperationalError("terminating connection")

    if pooled:
        with database.begin() as connection:
            connection.execute(text("SELECT 1"))
    with monkeypatch.context() as patched:
        patched.setattr(session, "_has_input", lambda _: True)
        patched.setattr(database._engine.dialect, "do_ping", ended)
        for opened in (database.begin, database.autocommit):
            with pytest.raises(DatabaseUnavailable, match="terminating"), opened():
                pass
    with database.begin() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_a_wrong_statement_is_no_absent_database(database: Database) -> None:
    with pytest.raises(ProgrammingError), database.begin() as connection:
        connection.execute(text("SELECT no_such_column"))


def test_a_value_that_no_index_takes_is_no_absent_database(database: Database) -> None:
    """psycopg calls it operational; tried again, it would be tried for ever."""
    with pytest.raises(DBAPIError, match="index row"), database.begin() as connection:
        connection.execute(
            text("INSERT INTO scenarios (key) VALUES (:key)"), {"key": secrets.token_hex(8_000)}
        )


def test_a_guarded_session_waits_five_seconds_at_most(database_url: str) -> None:
    guarded = Database(database_url, guarded=True, application_name="me")
    with guarded.begin() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert connection.execute(text(f"SHOW {name}")).scalar() == "5s"
        assert connection.execute(text("SHOW application_name")).scalar() == "me"
    with pytest.raises(DatabaseUnavailable), guarded.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 50"))
        connection.execute(text("SELECT pg_sleep(5)"))
    with pytest.raises(DatabaseUnavailable), guarded.begin() as connection:
        connection.execute(text("SET idle_in_transaction_session_timeout = 50"))
        time.sleep(0.3)
        connection.execute(text("SELECT 1"))
    guarded.close()


def test_only_what_is_said_again_anyway_does_not_wait_for_the_disk(database_url: str) -> None:
    query = "SELECT setting, source = 'session' FROM pg_settings WHERE name = 'synchronous_commit'"
    found = {}
    for durable in (True, False):
        opened = Database(database_url, guarded=True, durable=durable)
        with opened.begin() as connection:
            setting, ours = connection.execute(text(query)).one()
            found[durable] = setting if ours else "the server's own"
        opened.close()
    assert found == {True: "the server's own", False: "off"}


def test_an_interruption_between_two_looks_leaves_no_session_in_a_statement(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal is handled wherever Python is: in the wait's own steps, too."""
    looks = iter([0.0])

    def interrupted() -> float:
        for at in looks:
            return at
        raise KeyboardInterrupt

    own = Database(database_url, guarded=True, application_name="interrupted")
    opened = own.listen()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(bounded, "time", SimpleNamespace(monotonic=interrupted))
        opened.execute("SELECT pg_sleep(60)")
    assert opened.closed

    def is_there() -> bool:
        with database.begin() as connection:
            query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'interrupted'"
            return bool(connection.execute(text(query)).all())

    assert eventually(lambda: not is_there())


def test_deadlocks_are_tried_again(database: Database) -> None:
    with database.begin() as connection:
        news = [NewScenario(source="/a"), NewScenario(source="/b")]
        ids = [one.id for one in creation.create_many(connection, news)]
    barrier = threading.Barrier(2)
    tries: list[int] = []

    def lock(order: list[int]) -> None:
        met: list[bool] = []

        def work(connection: Connection) -> None:
            tries.append(1)
            connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            for one in order:
                connection.execute(
                    text("UPDATE scenarios SET attempts = attempts + 1 WHERE id = :id"), {"id": one}
                )
                if not met:
                    met.append(True)
                    barrier.wait(5)

        database.retrying(work)

    threads = [threading.Thread(target=lock, args=(order,)) for order in (ids, ids[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 3
    with database.begin() as connection:
        assert [scenarios.get(connection, one).attempts for one in ids] == [2, 2]


def test_a_conflict_that_does_not_end_is_raised(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))

    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(DatabaseConflict):
        database.retrying(work)
    assert len(tries) == 10
