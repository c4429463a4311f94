"""Chains and groups of tasks, created from a program: `flow.start(…)`, `flow.group([…], then=…)`.

The database is that of `vidan`'s commands: DATABASE_URL, .env, or the embedded stack that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from vidan import config
from vidan.db.session import Database
from vidan.protocol import creation, groups
from vidan.tasks.signature import Signature

T = TypeVar("T")


def start(signature: Signature) -> int:
    """Create the scenario that a signature stands for; returns its id.

    Raises InputRejected, NotFoundError (no such task) or DatabaseUnavailable.
    """
    return _retrying(lambda c: creation.create(c, signature.new())).id


def group(members: Sequence[Signature], *, then: Signature) -> list[int]:
    """Create scenarios, all or none, and `then` once all of them have ended; returns their ids.

    `completed` and `failed` are ends, a deletion too; a stopped one holds the group up until it is
    started again. In the task of `then`, `run.group` goes over the members. Raises as `start`.
    """
    created = _retrying(lambda c: groups.create(c, [one.new() for one in members], then.new()))
    return [one.id for one in created.members]


def _retrying(work: Callable[[Connection], T]) -> T:
    database = Database(config.load().require_database())
    try:
        return database.retrying(work)
    finally:
        database.close()
