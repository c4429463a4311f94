"""A PostgreSQL for the tests: one server per session, a fresh migrated database per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.databases import create_database, drop_database, temporary_server
from vidan.db import schema
from vidan.db.session import Database
from vidan.stack.postgres import PostgresServer

# Speed over durability: no data of a test has to survive a power cut
QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "1h",
}

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server in a temporary folder, which runs until the session ends."""
    with temporary_server(
        lambda folder: PostgresServer(folder / "postgres", folder / "postgres.log", QUICK)
    ) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> str:
    """The name of a database with the newest schema, from which others are cloned."""
    schema.upgrade(create_database(postgres, "migrated", strategy="file_copy"))
    return "migrated"


@pytest.fixture
def database_url(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    """The URL of a fresh database with the newest schema."""
    name = f"test_{next(_numbers)}"
    yield create_database(postgres, name, template_database, strategy="file_copy")
    drop_database(postgres, name)


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database without a schema."""
    name = f"test_{next(_numbers)}"
    yield create_database(postgres, name, strategy="file_copy")
    drop_database(postgres, name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A connection pool to a fresh migrated database."""
    opened = Database(database_url)
    yield opened
    opened.close()
