"""Connections: one engine, transactions that roll back by default, errors told by their type."""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
import sqlalchemy
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from vidan.config import sqlalchemy_url
from vidan.db.bounded import BoundedConnection
from vidan.errors import DatabaseUnavailable

__all__ = ["Connection", "Database"]

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_SECONDS = 5
"""Connect, statement, lock and idle time-out of workers and orchestrators."""

IDLE_SECONDS = 10.0
"""A pooled connection that has lain for so long is asked whether it is still there.

Longer than a heartbeat's pause, or a sweep's: of a thousand workers each question counts.
"""

STOPPED_SECONDS = 60
"""So long a transaction of anybody else may lie idle, such as one of a command under Ctrl-Z."""

_SMALL: dict[str, str | int] = {
    "enable_seqscan": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
}
"""Every statement of workers and orchestrators wants a few rows, by an index. Statistics of before
the table grew, or none at all, must not talk the planner into reading a million rows for them."""

_CONFLICTS = ("40P01", "40001")
_CONFLICT_TRIES = 10
_READ_ONLY = "25006"
_AWAY = (
    "08",  # the connection broke
    "40",  # a conflict: it rolled back
    "53",  # no connections, no memory, no room on the disk
    "55006", "55P03",  # somebody uses or locks what is needed
    "57",  # shut down, starting up, cancelled or timed out
    "58",  # the server's own disk and files
    _READ_ONLY,  # a standby: the primary has gone elsewhere
    "25P03", "25P04",  # it lay idle in its transaction, or that took too long
)  # fmt: skip
"""SQLSTATEs and classes of them that say how the server is, not what is wrong with a statement."""


class Database:
    """A database that can be reached by `url`; connections are made when first needed.

    `guarded` sets the statement, lock and idle time-outs that workers and orchestrators live under.
    `application_name` is how `pg_stat_activity` and the expiry of leases find the sessions. Not
    `durable` is for what is said again soon: a server that crashes may lose its last half second
    of it, and nobody waits for a disk.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "vidan",
        guarded: bool = False,
        pool_size: int = 5,
        durable: bool = True,
    ) -> None:
        self.url = url
        self._name = application_name
        self._silent: set[int] = set()  # server processes given up, which may still hold locks
        self._connect = BoundedConnection.connect if guarded else psycopg.Connection.connect
        self._arguments: dict[str, str | int] = {
            "application_name": application_name,
            "connect_timeout": TIMEOUT_SECONDS,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        }
        limits: dict[str, str | int] = {
            "idle_in_transaction_session_timeout": STOPPED_SECONDS * 1000
        }
        if guarded:
            limit = TIMEOUT_SECONDS * 1000
            self._arguments["tcp_user_timeout"] = limit
            for name in ("statement_timeout", "lock_timeout", *limits):
                limits[name] = limit
            limits |= _SMALL
            # the server's side of it: a host that is gone holds no locks for hours
            limits |= {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 2}
            limits |= {"tcp_keepalives_count": 3, "tcp_user_timeout": limit}
        if not durable:
            limits["synchronous_commit"] = "off"
        given = sqlalchemy.make_url(sqlalchemy_url(url)).query.get("options", "")
        self._arguments["options"] = " ".join(
            [*(f"-c {name}={value}" for name, value in limits.items()), str(given)]
        ).strip()
        self._engine = sqlalchemy.create_engine(
            sqlalchemy_url(url),
            connect_args=self._arguments,
            pool_size=pool_size,
            max_overflow=5,
            pool_timeout=TIMEOUT_SECONDS,
            pool_recycle=1800,
        )
        self._statements = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self._engine, "do_connect", self._opened)
        event.listen(self._engine, "checkout", self._checked_out)
        event.listen(self._engine, "checkin", self._checked_in)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction: it commits at the end of the block and rolls back on an exception.

        Raises DatabaseUnavailable when the server can't be reached, or was lost on the way: what
        the block did may then have been committed or not.
        """
        with self._telling(), self._engine.begin() as connection:
            if self._silent:
                self._end_silent(connection)
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Open a connection on which each statement is a transaction: one round trip, not three.

        Raises DatabaseUnavailable, as `begin` does.
        """
        with self._telling(), self._statements.connect() as connection:
            if self._silent:
                self._end_silent(connection)
            yield connection

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise what the driver raises as errors of vidan's."""
        try:
            yield
        except (DBAPIError, sqlalchemy.exc.TimeoutError, psycopg.Error) as error:
            # psycopg's own come from COPY, which SQLAlchemy does not see
            if not _is_unavailable(error):
                raise
            if _sqlstate(error) == _READ_ONLY:
                self._engine.dispose()  # the address may lead to the new primary by now
            raise database_error(error) from error

    def retrying(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return `work(connection, *args, **kwargs)`, done in one transaction.

        After a deadlock or a serialisation failure it is done again, some times.
        """
        for attempt in range(_CONFLICT_TRIES):
            try:
                with self.begin() as connection:
                    return work(connection, *args, **kwargs)
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
            return self._connect(
                url.render_as_string(hide_password=False),
                autocommit=True,
                **self._arguments,  # type: ignore[arg-type]
            )
        except psycopg.OperationalError as error:
            raise database_error(error) from error

    def _opened(
        self, _dialect: object, _record: object, words: list[Any], options: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        opened = self._connect(*words, **options)
        if isinstance(opened, BoundedConnection):
            opened.on_silence = self._silent.add
        return opened

    def _checked_out(
        self, opened: Any, record: ConnectionPoolEntry, _fairy: PoolProxiedConnection
    ) -> None:
        """Ask a connection that has lain idle whether it is still there; a busy one is looked at.

        A server that ends a session says so: that costs no question each time.
        """
        idle = time.monotonic() - record.info.get("idle_since", time.monotonic())
        if idle < IDLE_SECONDS and not opened.closed and not _has_word(opened):
            return
        try:
            self._engine.dialect.do_ping(opened)
        except psycopg.Error as error:
            if "idle_since" not in record.info:  # it was opened just now: a further one won't do
                raise
            raise InvalidatePoolError from error  # and another one is opened

    @staticmethod
    def _checked_in(_opened: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    def _end_silent(self, connection: Connection) -> None:
        """End the sessions that were given up: no time-out does it in the middle of a COPY."""
        silent = list(self._silent)
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY(:silent)"
                " AND application_name = :name AND pid <> pg_backend_pid()"
            ),
            {"silent": silent, "name": self._name},
        )
        self._silent.difference_update(silent)

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()


def _has_word(opened: psycopg.Connection[Any]) -> bool:
    """Tell whether the server has said something, or gone, since it last answered."""
    looking = select.poll()
    looking.register(opened.fileno(), select.POLLIN)
    return bool(looking.poll(0))


class DatabaseConflict(DatabaseUnavailable):
    """A deadlock or a serialisation failure: the transaction rolled back and may be tried again."""


def _sqlstate(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None)


def _is_unavailable(error: Exception) -> bool:
    """Tell a server that is away, busy or in a conflict from a statement that will never do."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(_AWAY)
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(
        cause,
        sqlalchemy.exc.TimeoutError | psycopg.OperationalError | psycopg.InterfaceError,
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
