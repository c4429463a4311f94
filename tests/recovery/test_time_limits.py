"""No wait for the database exceeds its limit: 5 s each for connections, statements and locks.

A connection on which the server is silent is given up a second later.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.silent_proxy import SilentProxy
from vidan.db import session
from vidan.db.bounded import SILENCE_SECONDS
from vidan.db.session import Database
from vidan.db.settings import server_settings
from vidan.errors import DatabaseUnavailable
from vidan.protocol import commits, creation
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios

HEADROOM = 15.0
"""Seconds by which a busy machine may be late. Waits without a limit would take at least 30."""


def seconds_until_unavailable(work: Callable[[], None]) -> float:
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        work()
    return time.monotonic() - started


@pytest.mark.slow
def test_each_wait_has_an_end(
    database_url: str, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session, "IDLE_SECONDS", 0.0
    )  # as if each connection had been idle for a while
    with Database(database_url).begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    deaf = socket.create_server(("127.0.0.1", 0))  # it accepts connections and never answers
    guarded = Database(database_url, guarded=True)
    through = Database(proxy.url, guarded=True)
    with through.begin() as connection:
        connection.execute(text("SELECT 1"))
    proxy.silence()

    def connect() -> None:
        with Database(f"postgresql://a@127.0.0.1:{deaf.getsockname()[1]}/b", guarded=True).begin():
            pass

    def run(statement: str) -> Callable[[], None]:
        def work() -> None:
            with guarded.begin() as connection:
                connection.execute(text(statement))

        return work

    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with Database(database_url).begin() as connection:
            connection.execute(text("SELECT 1 FROM scenarios FOR UPDATE"))
            locked.set()
            done.wait(60)

    with ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        assert locked.wait(20)
        waits = {
            "connect": pool.submit(seconds_until_unavailable, connect),
            "statement": pool.submit(seconds_until_unavailable, run("SELECT pg_sleep(60)")),
            "lock": pool.submit(seconds_until_unavailable, run("UPDATE scenarios SET name = 'x'")),
        }
        # the unanswered ping ends the pooled connection, and a new one is opened
        started = time.monotonic()
        with through.begin() as connection:
            connection.execute(text("SELECT 1"))
        ping = time.monotonic() - started
        taken = {name: wait.result() for name, wait in waits.items()}
        done.set()
        holding.result()
    deaf.close()
    assert max(taken.values()) < 5 + HEADROOM, taken
    assert ping < SILENCE_SECONDS + HEADROOM


@pytest.mark.slow
def test_a_lost_answer_ends_the_wait_too(proxy: SilentProxy) -> None:
    through = Database(proxy.url, guarded=True)

    def work() -> None:
        with through.begin() as connection:
            connection.execute(text("SELECT 1"))
            proxy.silence()
            connection.execute(text("SELECT 1"))

    assert seconds_until_unavailable(work) < SILENCE_SECONDS + HEADROOM


def test_the_servers_side_of_a_tcp_connection_is_guarded_as_well(proxy: SilentProxy) -> None:
    """A lost host must not hold locks until the kernel gives its connection up after two hours."""
    with Database(proxy.url, guarded=True).begin() as connection:
        asked = connection.execute(
            text("SELECT name, source FROM pg_settings WHERE name LIKE 'tcp_%'")
        )
        # The server's end of the proxy is a Unix socket, for which all four values are shown as 0.
        assert {row.name: row.source for row in asked} == {
            "tcp_keepalives_count": "session",
            "tcp_keepalives_idle": "session",
            "tcp_keepalives_interval": "session",
            "tcp_user_timeout": "session",
        }
    sent = server_settings(guarded=True, durable=True)
    assert {name: value for name, value in sent.items() if name.startswith("tcp_")} == {
        "tcp_keepalives_count": "3",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_user_timeout": "5000",
    }


def test_options_in_the_url_are_kept(database_url: str) -> None:
    for guarded in (False, True):
        url = f"{database_url}&options=-csearch_path%3Delsewhere"
        with Database(url, guarded=guarded).begin() as connection:
            assert connection.execute(text("SHOW search_path")).scalar() == "elsewhere"
            idle = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
            assert idle == ("5s" if guarded else "1min")


@pytest.mark.slow
def test_a_commit_that_falls_silent_in_its_copy_is_tried_again(
    proxy: SilentProxy, database_url: str
) -> None:
    """The first session still holds the lock of the row, and waits for the rest of the COPY."""
    database = Database(database_url)
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    worker = PlayedWorker(database)
    scenario_id = worker.claim()
    fence = worker.fence
    assert fence is not None
    guarded = Database(proxy.url, guarded=True, application_name=str(worker.id))
    silenced: list[int] = []

    class Rows(list[commits.Row]):
        def __iter__(self) -> Iterator[commits.Row]:
            for number, row in enumerate(super().__iter__()):
                if number == len(self) - 1 and not silenced:
                    silenced.append(proxy.silence())
                yield row

    boxes = [float(edge) for edge in range(40)]
    rows = Rows(
        commits.Row(frame, frame * 40, [0] * 10, [0.5] * 10, boxes) for frame in range(2_000)
    )
    batch = commits.Batch(0, 2_000, None, "{}", ("person",), rows)
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        guarded.retrying(commits.commit, fence, batch)
    assert database_sessions(database, worker) == ["active"]  # in the COPY, its lock held
    guarded.retrying(commits.commit, fence, batch)
    assert time.monotonic() - started < SILENCE_SECONDS + HEADROOM
    assert silenced == [1]
    with database.begin() as connection:
        assert scenarios.get(connection, scenario_id).frames_done == 2_000


def database_sessions(database: Database, worker: PlayedWorker) -> list[str]:
    with database.begin() as connection:
        return list(
            connection.execute(
                text("SELECT state FROM pg_stat_activity WHERE application_name = :name"),
                {"name": str(worker.id)},
            ).scalars()
        )
