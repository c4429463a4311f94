"""From settings to a database whose schema is the expected one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database


@contextmanager
def database(
    settings: Settings, out: Output, *, reads: bool = False, follows: bool = False
) -> Iterator[Database]:
    """The database that the settings name, checked, closed at the end of the block.

    A command that only reads starts the embedded PostgreSQL for as long as it needs, if there is
    one and it doesn't run. One that `follows` asks little and often: a server that says nothing is
    given up. Raises DatabaseUnavailable or SchemaMismatch.
    """
    from vidan.db import schema

    with ExitStack() as stack:
        if reads and settings.database_url is None and embedded_exists(settings):
            from vidan import stack as embedded

            # one that runs is joined too: it may be just about to end
            stack.enter_context(embedded.join(settings, readers_only=True))
        tell(settings, out)
        opened = open_database(settings, guarded=follows, reads=reads)
        stack.callback(opened.close)
        schema.check(opened)
        yield opened


def open_database(settings: Settings, *, guarded: bool = False, reads: bool = False) -> Database:
    """The database that the settings name; nothing is connected or checked yet."""
    url = settings.require_database(reads=reads)
    from vidan.db.session import Database

    # that a transaction could not be rolled back is no news: what has broken it is told
    for name in ("sqlalchemy.pool", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Database(url, guarded=guarded)


def tell(settings: Settings, out: Output) -> None:
    """Say to a person which database is talked to, if it isn't the embedded one."""
    if settings.database_url is not None and sys.stderr.isatty():
        from vidan.config import shown_url

        out.note(f"database: {shown_url(settings.database_url)}")


def note_unused(settings: Settings, out: Output, command: str) -> None:
    """Say which settings a command that brings a stack of its own leaves alone."""
    unused = []
    if settings.database_url is not None:
        unused.append(("DATABASE_URL", "database"))
    if settings.kafka:
        unused.append(("KAFKA_…", "broker"))
    for name, what in unused:
        out.note(f"{name} is set, and `vidan {command}` doesn't use it: it brings its own {what}")


def embedded_exists(settings: Settings) -> bool:
    """Whether an embedded stack has ever run here, and left a database."""
    return (settings.home / "postgres" / "data").exists()
