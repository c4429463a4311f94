"""Creates and drops the databases of the tests' PostgreSQL servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg import sql

from tests.support.folders import new_folder
from vidan.config import plain_url
from vidan.stack.postgres import PostgresServer

S = TypeVar("S", bound=PostgresServer)


@contextmanager
def temporary_server(make: Callable[[Path], S]) -> Iterator[S]:
    """Run a server in a temporary folder, for the block."""
    folder = new_folder()
    server = make(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def create_database(
    server: PostgresServer, name: str, template: str = "template1", *, strategy: str = "wal_log"
) -> str:
    """Create a database, and return its URL."""
    _execute(
        server,
        sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier(strategy)
        ),
    )
    return plain_url(server.url).replace("@/vidan?", f"@/{name}?")


def drop_database(server: PostgresServer, name: str) -> None:
    """Drop a database."""
    # FORCE ends sessions that a test has left, for example in a process that it killed
    _execute(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(server: PostgresServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement)
