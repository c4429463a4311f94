"""A PostgreSQL of these tests' own, which they may stop, restart and freeze."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.support.durable_postgres import DurablePostgres, durable_postgres
from vidan.db import schema

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[DurablePostgres]:
    """The server. A test that stops it has to start it again."""
    with durable_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: DurablePostgres) -> str:
    """Name of a database with the newest schema, to be cloned."""
    schema.upgrade(postgres.create_database("migrated"))
    return "migrated"


@pytest.fixture
def database_url(postgres: DurablePostgres, migrated: str) -> Iterator[str]:
    """URL of a fresh database with the newest schema."""
    if postgres.poll() is not None:
        postgres.start()  # a test that failed has left it stopped
    name = f"recovery_{next(_numbers)}"
    yield postgres.create_database(name, migrated)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
