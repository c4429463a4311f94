"""A worker stops by its own clock before the database ends its lease, whatever hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from tests.recovery.test_time_limits import proxy
from tests.support.durable_postgres import DurablePostgres
from tests.support.processes import eventually
from tests.support.silent_proxy import SilentProxy
from vidan.db.session import Database
from vidan.domain.worker import WorkerOptions
from vidan.protocol import heartbeats
from vidan.worker import lease as lease_module
from vidan.worker.lease import Lease, Measured

__all__ = ["proxy"]

LEASE_SECONDS = 10.0
MARGIN_SECONDS = 6.0


@pytest.fixture
def ended() -> list[list[str]]:
    """The threads that there were when the worker has taken its lease as ended."""
    return []


@pytest.fixture
def lease(
    proxy: SilentProxy, ended: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lease]:
    """A short lease that is renewed every half second, over the proxy."""
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
    """Return when the lease ends, and now, by the database's clock."""
    with database.begin() as connection:
        row = connection.execute(text("SELECT lease_until, now() AS now FROM workers")).one()
        return row.lease_until, row.now


def test_a_heartbeat_that_hangs_in_the_network_keeps_no_run_past_the_lease(
    lease: Lease, proxy: SilentProxy, database_url: str, ended: list[list[str]]
) -> None:
    database = Database(database_url)
    time.sleep(1.2)
    proxy.swallows = True  # new connections too: no answer arrives any more

    assert eventually(lambda: bool(ended))

    lease_until, now = until(database)
    assert now < lease_until, "others may have it already"
    assert "heartbeat" in ended[0]
    proxy.swallows = False
    started = time.monotonic()
    lease.give_up()  # the hanging heartbeat keeps no process either
    assert time.monotonic() - started < 20
    assert lease.ended


def test_a_frozen_server_is_no_living_lease(
    lease: Lease, postgres: DurablePostgres, ended: list[list[str]]
) -> None:
    with postgres.frozen():
        assert eventually(lambda: bool(ended))


def test_a_host_that_slept_has_lost_its_lease(
    lease: Lease, ended: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock has gone on: told before a single statement is sent."""
    awake = lease_module.clock
    monkeypatch.setattr(lease, "_beat", lambda: True)
    monkeypatch.setattr(lease, "_until", lease._until + 600)  # not by itself meanwhile
    monkeypatch.setattr(lease_module, "clock", lambda: awake() + 3600)
    assert eventually(lambda: bool(ended))


def test_the_clock_counts_the_hosts_sleep() -> None:
    assert lease_module._CLOCK == time.CLOCK_BOOTTIME


def test_the_heartbeat_waits_for_no_connection_of_others(lease: Lease, database_url: str) -> None:
    """All connections that its worker may have are in use, and none of them gives way."""
    in_use: list[Any] = []
    try:
        for _ in range(9):  # slots + 3, and five more
            opened = lease.database.begin()
            opened.__enter__()
            in_use.append(opened)
        before, _ = until(Database(database_url))
        assert eventually(lambda: until(Database(database_url))[0] > before)
    finally:
        for opened in in_use:
            opened.__exit__(None, None, None)
    assert not lease.ended
