"""Connections: one engine, transactions that roll back by default, errors told by their type."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from vidan.config import sqlalchemy_url
from vidan.db import schema
from vidan.errors import DatabaseUnavailable

T = TypeVar("T")

TIMEOUT_SECONDS = 5
"""Connect, statement, lock and idle time-out of workers and orchestrators."""

_CONFLICTS = ("40P01", "40001")
_CONFLICT_TRIES = 10
_TOO_BIG = "54"  # the class of SQLSTATE "program limit exceeded": psycopg calls it operational


class Database:
    """A database that can be reached by `url`; connections are made when first needed.

    `guarded` sets the statement, lock and idle time-outs that workers and orchestrators live under.
    `application_name` is how `pg_stat_activity` and the expiry of leases find the sessions.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "vidan",
        guarded: bool = False,
        pool_size: int = 5,
    ) -> None:
        self.url = url
        self._arguments: dict[str, str | int] = {
            "application_name": application_name,
            "connect_timeout": TIMEOUT_SECONDS,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        }
        if guarded:
            limit = TIMEOUT_SECONDS * 1000
            self._arguments["tcp_user_timeout"] = limit
            self._arguments["options"] = (
                f"-c statement_timeout={limit} -c lock_timeout={limit}"
                f" -c idle_in_transaction_session_timeout={limit}"
            )
        self._engine = sqlalchemy.create_engine(
            sqlalchemy_url(url),
            connect_args=self._arguments,
            pool_size=pool_size,
            max_overflow=5,
            pool_timeout=TIMEOUT_SECONDS,
            pool_pre_ping=True,
            pool_recycle=1800,
        )

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction: it commits at the end of the block and rolls back on an exception.

        Raises DatabaseUnavailable when the server can't be reached, or was lost on the way: what
        the block did may then have been committed or not.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DBAPIError, sqlalchemy.exc.TimeoutError, psycopg.Error) as error:
            # psycopg's own come from COPY, which SQLAlchemy does not see
            if _is_unavailable(error):
                raise database_error(error) from error
            raise

    def retrying(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one transaction; after a deadlock or a serialisation failure, again."""
        for attempt in range(_CONFLICT_TRIES):
            try:
                with self.begin() as connection:
                    return work(connection)
            except DatabaseConflict:
                if attempt == _CONFLICT_TRIES - 1:
                    raise
            time.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    def listen(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open an autocommit connection of its own, for LISTEN; the caller closes it.

        Raises DatabaseUnavailable.
        """
        url = sqlalchemy.make_url(sqlalchemy_url(self.url)).set(drivername="postgresql")
        try:
            return psycopg.connect(
                url.render_as_string(hide_password=False),
                autocommit=True,
                **self._arguments,  # type: ignore[arg-type]
            )
        except psycopg.OperationalError as error:
            raise database_error(error) from error

    def check_schema(self) -> None:
        """Raise SchemaMismatch unless the schema is the one that this version expects."""
        with self.begin() as connection:
            schema.check(connection)

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()


class DatabaseConflict(DatabaseUnavailable):
    """A deadlock or a serialisation failure: the transaction rolled back and may be tried again."""


def _sqlstate(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None)


def _is_unavailable(error: Exception) -> bool:
    """Tell a server that is away, busy or in a conflict from a statement that will never do."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if (_sqlstate(error) or "").startswith(_TOO_BIG):
        return False
    return isinstance(
        error,
        OperationalError
        | InterfaceError
        | sqlalchemy.exc.TimeoutError
        | psycopg.OperationalError
        | psycopg.InterfaceError,
    )


def database_error(error: Exception) -> DatabaseUnavailable:
    """Name a driver's error in one line, with the mend."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    line = " ".join(str(cause).split()) or type(cause).__name__
    if _sqlstate(error) in _CONFLICTS:
        return DatabaseConflict(f"the database ended a conflict: {line}")
    return DatabaseUnavailable(
        f"can't reach the database: {line}",
        hint="start PostgreSQL or `vidan up`, and check DATABASE_URL",
    )
