"""A PostgreSQL for these tests alone, which they may stop, restart and freeze."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.databases import drop_database
from tests.support.durable_postgres import DurablePostgres, durable_postgres
from tests.support.silent_proxy import SilentProxy
from vidan.db import schema

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[DurablePostgres]:
    """The server. A test that stops it has to start it again."""
    with durable_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: DurablePostgres) -> str:
    """The name of a database with the newest schema, from which others are cloned."""
    schema.upgrade(postgres.create_database("migrated"))
    return "migrated"


@pytest.fixture
def database_url(postgres: DurablePostgres, migrated: str) -> Iterator[str]:
    """The URL of a fresh database with the newest schema."""
    if postgres.poll() is not None:
        postgres.start()  # a failed test has left the server stopped
    name = f"recovery_{next(_numbers)}"
    yield postgres.create_database(name, migrated)
    drop_database(postgres, name)


@pytest.fixture
def proxy(postgres: DurablePostgres, database_url: str) -> Iterator[SilentProxy]:
    """A proxy on a TCP port that leads to the database of the test."""
    name = database_url.partition("@/")[2].partition("?")[0]
    with SilentProxy(postgres.socket, name) as opened:
        yield opened
