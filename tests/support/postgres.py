"""A PostgreSQL for the tests: one server per session, a fresh migrated database per test."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.support.folders import new_folder
from vidan.config import plain_url
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
    folder = new_folder()
    server = PostgresServer(folder / "postgres", folder / "postgres.log", QUICK)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> str:
    """The name of a database with the newest schema, from which others are cloned."""
    url = _create(postgres, "migrated", "template1")
    schema.upgrade(url)
    return "migrated"


@pytest.fixture
def database_url(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    """The URL of a fresh database with the newest schema."""
    name = f"test_{next(_numbers)}"
    yield _create(postgres, name, template_database)
    _drop(postgres, name)


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database without a schema."""
    name = f"test_{next(_numbers)}"
    yield _create(postgres, name, "template1")
    _drop(postgres, name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A connection pool to a fresh migrated database."""
    opened = Database(database_url)
    yield opened
    opened.close()


def _create(postgres: PostgresServer, name: str, template: str) -> str:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return plain_url(postgres.url).replace("@/vidan?", f"@/{name}?")


def _drop(postgres: PostgresServer, name: str) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        # FORCE ends sessions that a test has left, for example in a process that it killed
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
