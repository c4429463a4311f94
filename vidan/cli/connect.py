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
    settings: Settings,
    out: Output,
    *,
    reads: bool = False,
    follows: bool = False,
    direct: bool = False,
) -> Iterator[Database]:
    """Open the database of the settings, check its schema, close it at the end of the block.

    For a command that only `reads`, the embedded PostgreSQL is started for the length of the block
    if it exists and does not run. A command that `follows` sends short queries often, so a server
    that does not answer is given up after a few seconds. `direct` refuses a connection pooler.
    Raises DatabaseUnavailable, SchemaMismatch or UsageError.
    """
    from vidan.db import schema

    with ExitStack() as stack:
        if reads and settings.database_url is None and embedded_exists(settings):
            from vidan import stack as embedded

            # a running stack is joined too: it may be about to stop
            stack.enter_context(embedded.join(settings, readers_only=True))
        tell(settings, out)
        opened = open_database(settings, guarded=follows, reads=reads, direct=direct)
        stack.callback(opened.close)
        schema.check(opened)
        yield opened


def open_database(
    settings: Settings, *, guarded: bool = False, reads: bool = False, direct: bool = False
) -> Database:
    """Return the database of the settings; it is not connected or checked yet."""
    url = settings.require_database(reads=reads, direct=direct)
    from vidan.db.session import Database

    # a failed rollback only follows from the error that is reported anyway
    for name in ("sqlalchemy.pool", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Database(url, guarded=guarded, direct=direct)


def tell(settings: Settings, out: Output) -> None:
    """In a terminal, say which database is used, unless it is the embedded one."""
    if settings.database_url is not None and sys.stderr.isatty():
        from vidan.config import shown_url

        out.note(f"database: {shown_url(settings.database_url)}")


def note_unused(settings: Settings, out: Output, command: str) -> None:
    """Say which settings `vidan run` and `vidan up` ignore, since they bring their own stack."""
    unused = []
    if settings.database_url is not None:
        unused.append(("DATABASE_URL", "database"))
    if settings.kafka:
        unused.append(("KAFKA_…", "broker"))
    for name, what in unused:
        out.note(f"{name} is set, and `vidan {command}` doesn't use it: it brings its own {what}")


def embedded_exists(settings: Settings) -> bool:
    """Whether an embedded stack has run here before and left its database."""
    return (settings.home / "postgres" / "data").exists()
