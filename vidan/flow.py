"""Chains and groups of tasks, created from a program: `flow.start(…)`, `flow.group([…], then=…)`.

The database is that of `vidan`'s commands: DATABASE_URL, .env, or the embedded stack that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection

from vidan import config
from vidan.db.session import Database
from vidan.services import groups, scenarios
from vidan.signature import Signature


def start(signature: Signature) -> int:
    """Create the scenario that a signature stands for; returns its id.

    Raises InputRejected, NotFoundError (no such task) or DatabaseUnavailable.
    """
    with _transaction() as connection:
        return scenarios.create(connection, signature.new()).id


def group(members: Sequence[Signature], *, then: Signature) -> list[int]:
    """Create scenarios, all or none, and `then` once all of them have ended; returns their ids.

    `completed` and `failed` are ends, a deletion too; a stopped one holds the group up until it is
    started again. In the task of `then`, `run.group` goes over the members. Raises as `start`.
    """
    with _transaction() as connection:
        created = groups.create(connection, [one.new() for one in members], then.new())
    return [one.id for one in created.members]


@contextmanager
def _transaction() -> Iterator[Connection]:
    database = Database(config.load().require_database())
    try:
        with database.begin() as connection:
            yield connection
    finally:
        database.close()
