"""A worker stops by its own clock before the database ends its lease, whatever hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.durable_postgres import DurablePostgres
from tests.support.processes import eventually
from tests.support.silent_proxy import SilentProxy
from vidan.db.session import Database
from vidan.domain.worker import WorkerOptions
from vidan.protocol import heartbeats
from vidan.worker import lease as lease_module
from vidan.worker.lease import Lease, Measured

LEASE_SECONDS = 10.0
MARGIN_SECONDS = 6.0


@pytest.fixture
def ended() -> list[list[str]]:
    """The threads that ran when the worker considered its lease ended, once for each time."""
    return []


@pytest.fixture
def lease(
    proxy: SilentProxy, ended: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lease]:
    """A short lease, renewed every half second through the proxy."""
    for module in (lease_module, heartbeats):
        monkeypatch.setattr(module, "LEASE_SECONDS", LEASE_SECONDS)
    monkeypatch.setattr(lease_module, "MARGIN_SECONDS", MARGIN_SECONDS)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.5)
    made = Lease(
        proxy.url,
        WorkerOptions("w@test"),
        ["detect"],
        None,
        on_beat=lambda *_: None,
        on_end=lambda: ended.append([thread.name for thread in threading.enumerate()]),
        measure=lambda: Measured("idle", 0.0),
    )
    made.begin()
    yield made
    made.give_up()


def until(database: Database) -> tuple[datetime, datetime]:
    """Return the end of the lease, and the present time, by the database's clock."""
    with database.begin() as connection:
        row = connection.execute(text("SELECT lease_until, now() AS now FROM workers")).one()
        return row.lease_until, row.now


@pytest.mark.slow
def test_a_heartbeat_that_hangs_in_the_network_keeps_no_run_past_the_lease(
    lease: Lease, proxy: SilentProxy, database_url: str, ended: list[list[str]]
) -> None:
    database = Database(database_url)
    time.sleep(1.2)
    proxy.swallows = True  # from now on no connection, not even a new one, gets an answer

    assert eventually(lambda: bool(ended))

    lease_until, now = until(database)
    assert now < lease_until, "another worker may hold the scenario already"
    assert "heartbeat" in ended[0]
    proxy.swallows = False
    started = time.monotonic()
    lease.give_up()  # the hanging heartbeat does not delay the end of the process
    assert time.monotonic() - started < 20
    assert lease.ended


def test_a_lease_ends_while_the_server_is_frozen(
    lease: Lease, postgres: DurablePostgres, ended: list[list[str]]
) -> None:
    with postgres.frozen():
        assert eventually(lambda: bool(ended))


def test_a_lease_ends_while_the_host_sleeps(
    lease: Lease, ended: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock ran on during the sleep: the worker notices before it sends a statement."""
    awake = lease_module.clock
    monkeypatch.setattr(lease, "_beat", lambda: True)
    monkeypatch.setattr(lease, "_until", lease._until + 600)  # it must not end by itself before
    monkeypatch.setattr(lease_module, "clock", lambda: awake() + 3600)
    assert eventually(lambda: bool(ended))


def test_the_clock_counts_the_hosts_sleep() -> None:
    assert lease_module._CLOCK == time.CLOCK_BOOTTIME


def test_the_heartbeat_does_not_wait_for_a_connection_of_the_pool(
    lease: Lease, database_url: str
) -> None:
    """All connections of the worker are in use, and none is given back."""
    in_use: list[Any] = []
    try:
        for _ in range(9):  # the pool has slots + 3 connections, and five more
            opened = lease.database.begin()
            opened.__enter__()
            in_use.append(opened)
        before, _ = until(Database(database_url))
        assert eventually(lambda: until(Database(database_url))[0] > before)
    finally:
        for opened in in_use:
            opened.__exit__(None, None, None)
    assert not lease.ended
