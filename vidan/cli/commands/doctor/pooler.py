"""Checks whether a connection pooler stands before the database, and where it is in the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from vidan.cli import connect
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.config import DIRECT
from vidan.errors import VidanError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database


def of_pooler(settings: Settings, database: Database) -> Iterator[Finding]:
    """Check the way of workers, supervisors and orchestrators. Raises DatabaseUnavailable.

    Yields nothing where there is one URL, and no pooler behind it.
    """
    pooled = database.is_pooled()
    if settings.direct_database_url is None:
        if pooled:
            found = "DATABASE_URL leads to a connection pooler, which only callers can use"
            remedy = f"set {DIRECT} for workers, supervisors and orchestrators"
            yield Finding("pooler", State.WARN, found, remedy)
        return
    try:
        with closing(connect.open_database(settings, guarded=True, direct=True)) as direct:
            same = _place(direct) == _place(database)
    except VidanError as error:
        found = f"{DIRECT}: {error}"
        yield Finding("pooler", State.FAIL, found, error.hint, error.exit_code)
        return
    if not same:
        found = f"{DIRECT} and DATABASE_URL lead to different databases"
        remedy = "workers do what commands never see: let both name the same database"
        yield Finding("pooler", State.FAIL, found, remedy, 8)
    else:
        found = "DATABASE_URL leads to a connection pooler" if pooled else "no connection pooler"
        yield Finding("pooler", State.OK, f"{found}; {DIRECT} leads to the server itself")


def _place(database: Database) -> tuple[object, ...]:
    """Return what tells this database of this server from all others."""
    from vidan.services import diagnosis

    with database.begin() as connection:
        return diagnosis.identity(connection)
