"""Chains and groups of tasks, created by a program: `flow.start(…)`, `flow.group([…], then=…)`.

They are created in the database that `vidan`'s commands use: DATABASE_URL, `.env`, or the embedded
stack that runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from vidan import config
from vidan.db.session import Database
from vidan.protocol import creation, groups
from vidan.tasks.signature import Signature


def start(signature: Signature) -> int:
    """Create the scenario that a signature describes; returns its id.

    Raises InputRejected, NotFoundError (no such task) or DatabaseUnavailable.
    """
    with closing(_database()) as database:
        return database.retrying(creation.create, signature.new()).id


def group(members: Sequence[Signature], *, then: Signature) -> list[int]:
    """Create scenarios, all or none, and `then` once all of them have ended; returns their ids.

    A member that completed, failed or was deleted has ended; a stopped one keeps the group waiting
    until it is started again and ends. The task of `then` reads the members from `run.group`.
    Raises as `start` does.
    """
    with closing(_database()) as database:
        news = [one.new() for one in members]
        created = database.retrying(groups.create, news, then.new())
    return [one.id for one in created.members]


def _database() -> Database:
    return Database(config.load().require_database())
