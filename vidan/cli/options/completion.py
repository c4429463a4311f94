"""What a shell completes as a value: names and ids, of which most come from the database.

A database that does not answer at once completes nothing, and nobody is told why: the user is
typing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vidan.db.session import Connection

PATIENCE = 1.0
"""Longest time, in seconds, that the database may take."""

MOST = 100
"""Most ids that are offered: the newest."""


def statuses(incomplete: str) -> list[str]:
    """Names of statuses."""
    from vidan.domain.status import Status

    return _fitting(Status, incomplete)


def wanted_statuses(incomplete: str) -> list[str]:
    """Statuses that a new scenario may have."""
    return _fitting(("init_startup", "inactive"), incomplete)


def asked_statuses(incomplete: str) -> list[str]:
    """Statuses that a user may ask for."""
    return _fitting(("active", "inactive", "init_startup", "init_shutdown"), incomplete)


def formats(incomplete: str) -> list[str]:
    """Names of export formats."""
    from vidan.export.formats import FORMATS

    return _fitting(FORMATS, incomplete)


def models(incomplete: str) -> list[str]:
    """Names of detection models."""
    from vidan.detection import catalogue

    return _fitting((model.name for model in catalogue.models()), incomplete)


def scenarios(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest scenarios."""

    def read(connection: Connection) -> list[int]:
        from vidan.services.filters import Filters
        from vidan.services.scenarios import page

        return [one.id for one in page(connection, Filters(), limit=MOST, newest_first=True)]

    return _fitting(map(str, _asked(ctx, read)), incomplete)


def tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of tasks."""

    def read(connection: Connection) -> list[str]:
        from vidan.protocol import tasks

        return [spec.name for spec in tasks.find(connection)]

    return _fitting(["detect", *_asked(ctx, read)], incomplete)


def workers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names and ids of living workers; ids only once their first characters are typed."""

    def read(connection: Connection) -> list[str]:
        from vidan.services import workers

        found = workers.find(connection)
        ids = [str(one.id) for one in found] if incomplete else []
        return [*(one.name for one in found), *ids]

    return _fitting(_asked(ctx, read), incomplete)


def queues(ctx: typer.Context, incomplete: str) -> list[str]:
    """Queues of living workers."""

    def read(connection: Connection) -> list[str]:
        from vidan.services import workers

        return [queue for one in workers.find(connection) for queue in one.queues]

    return _fitting(["default", *_asked(ctx, read)], incomplete)


def schedules(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of schedules."""

    def read(connection: Connection) -> list[str]:
        from vidan.services import schedules

        return [one.name for one in schedules.find(connection)]

    return _fitting(_asked(ctx, read), incomplete)


def _fitting(words: Iterable[str], incomplete: str) -> list[str]:
    """Return the words that begin so, each once."""
    return [word for word in dict.fromkeys(map(str, words)) if word.startswith(incomplete)]


def _asked(ctx: typer.Context, read: Callable[[Connection], list[Any]]) -> list[Any]:
    """Return what the database answers in time, else nothing."""
    found: list[Any] = []

    def ask() -> None:
        from vidan import config
        from vidan.db.session import Database

        try:
            settings = config.load(database_url=ctx.params.get("database_url"))
            database = Database(settings.require_database(reads=True), guarded=True)
            try:
                with database.begin() as connection:
                    found.extend(read(connection))
            finally:
                database.close()
        except Exception:  # whatever is wrong: a message in the middle of a typed line helps nobody
            found.clear()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return [] if thread.is_alive() else found
