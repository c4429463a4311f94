"""Connections: one engine, transactions that roll back by default, errors distinguished by type."""

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
from vidan.db import reading
from vidan.db.bounded import BoundedConnection
from vidan.errors import DatabaseUnavailable

__all__ = ["Connection", "Database"]

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_SECONDS = 5
"""Connect, statement, lock and idle time-out of workers and orchestrators, in seconds."""

IDLE_SECONDS = 10.0
"""Age, in seconds, from which an idle pooled connection is tested before it is used.

Longer than the pauses of heartbeats and sweeps: with a thousand workers each test counts.
"""

STOPPED_SECONDS = 60
"""Longest time, in seconds, that a transaction of other clients may idle: a command under Ctrl-Z,
for example."""

_FEW_ROWS: dict[str, str | int] = {
    "enable_seqscan": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
}
"""Planner settings of workers and orchestrators. Each of their statements needs a few rows, by an
index; with old statistics, or none, the planner could otherwise read a million rows."""

_CONFLICTS = ("40P01", "40001")
_CONFLICT_TRIES = 10
"""Most times that a transaction which ends in a conflict is tried."""

_READ_ONLY = "25006"
_UNAVAILABLE = (
    "08",  # the connection broke
    "40",  # a conflict: the transaction rolled back
    "53",  # no connections, no memory, no room on the disk
    "55006", "55P03",  # another session uses or locks the object
    "57",  # shut down, starting up, cancelled or timed out
    "58",  # the server's own disk and files
    _READ_ONLY,  # a standby: another server is the primary now
    "25P03", "25P04",  # the transaction idled, or lasted, for too long
)  # fmt: skip
"""SQLSTATEs, and classes of them, that mean a server in trouble and not a wrong statement."""


def _client_settings(*, guarded: bool) -> dict[str, str | int]:
    """Return libpq's settings: within seconds they find a server host that is gone."""
    settings: dict[str, str | int] = {
        "connect_timeout": TIMEOUT_SECONDS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }
    return settings | ({"tcp_user_timeout": TIMEOUT_SECONDS * 1000} if guarded else {})


def _server_settings(*, guarded: bool, durable: bool) -> dict[str, str | int]:
    """Return the settings of the server's session: its time-outs, in milliseconds, among them."""
    if guarded:
        limit = TIMEOUT_SECONDS * 1000
        settings: dict[str, str | int] = {
            "idle_in_transaction_session_timeout": limit,
            "statement_timeout": limit,
            "lock_timeout": limit,
            **_FEW_ROWS,
            # With these the server drops the locks of a client host that is gone within seconds,
            # not hours.
            "tcp_keepalives_idle": 5,
            "tcp_keepalives_interval": 2,
            "tcp_keepalives_count": 3,
            "tcp_user_timeout": limit,
        }
    else:
        settings = {"idle_in_transaction_session_timeout": STOPPED_SECONDS * 1000}
    return settings if durable else settings | {"synchronous_commit": "off"}


class Database:
    """A database at `url`; connections are made when they are first needed.

    `guarded` sets the statement, lock and idle time-outs of workers and orchestrators.
    `pg_stat_activity` and the expiry of leases find the sessions by `application_name`. Without
    `durable` a commit does not wait for the disk, and a server that crashes may lose the commits of
    its last half second: this is for values that are written again soon.
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
        given = sqlalchemy.make_url(sqlalchemy_url(url)).query.get("options", "")
        limits = _server_settings(guarded=guarded, durable=durable)
        self._arguments = _client_settings(guarded=guarded) | {
            "application_name": application_name,
            "options": " ".join(
                [*(f"-c {name}={value}" for name, value in limits.items()), str(given)]
            ).strip(),
        }
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

        Raises DatabaseUnavailable if the server can't be reached or the connection was lost; in the
        second case the transaction may have been committed or not.
        """
        with self._translated(), self._engine.begin() as connection:
            if self._silent:
                self._end_silent(connection)
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Open a connection where each statement is a transaction: one round trip instead of three.

        Raises DatabaseUnavailable, as `begin` does.
        """
        with self._translated(), self._statements.connect() as connection:
            if self._silent:
                self._end_silent(connection)
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into vidan's."""
        try:
            yield
        except (DBAPIError, sqlalchemy.exc.TimeoutError, psycopg.Error) as error:
            # COPY raises errors of psycopg, because it does not go through SQLAlchemy.
            if not _is_unavailable(error):
                raise
            if _sqlstate(error) == _READ_ONLY:
                self._engine.dispose()  # a new connection may reach the new primary
            raise database_error(error) from error

    def retrying(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return `work(connection, *args, **kwargs)`, called in one transaction.

        After a deadlock or a serialisation failure it is called again, up to ten times in all.
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
        """Open a separate autocommit connection, for LISTEN; the caller closes it.

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
        reading.register(opened)
        return opened

    def _checked_out(
        self, opened: Any, record: ConnectionPoolEntry, _fairy: PoolProxiedConnection
    ) -> None:
        """Test a connection that has idled for long, or to which the server has sent something.

        A server that ends a session sends a message, so a connection that was used recently needs
        no test.
        """
        idle = time.monotonic() - record.info.get("idle_since", time.monotonic())
        if idle < IDLE_SECONDS and not opened.closed and not _has_input(opened):
            return
        try:
            self._engine.dialect.do_ping(opened)
        except psycopg.Error as error:
            if "idle_since" not in record.info:  # opened just now: another one would fail too
                raise
            raise InvalidatePoolError from error  # SQLAlchemy opens another one

    @staticmethod
    def _checked_in(_opened: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    def _end_silent(self, connection: Connection) -> None:
        """End the server's sessions that were given up: no time-out ends them during a COPY."""
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


def _has_input(opened: psycopg.Connection[Any]) -> bool:
    """Tell whether the server has sent something, or closed, since its last answer."""
    poll = select.poll()
    poll.register(opened.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class DatabaseConflict(DatabaseUnavailable):
    """A deadlock or a serialisation failure: the transaction rolled back and may be repeated."""


def _sqlstate(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None)


def _is_unavailable(error: Exception) -> bool:
    """Tell whether an error means an unavailable server, and not a wrong statement."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(_UNAVAILABLE)
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(
        cause,
        sqlalchemy.exc.TimeoutError | psycopg.OperationalError | psycopg.InterfaceError,
    )


def database_error(error: Exception) -> DatabaseUnavailable:
    """Return a driver's error as one of vidan's, in one line, with a hint how to fix it."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    line = " ".join(str(cause).split()) or type(cause).__name__
    if _sqlstate(error) in _CONFLICTS:
        return DatabaseConflict(f"the database ended a conflict: {line}")
    return DatabaseUnavailable(
        f"can't reach the database: {line}",
        hint="start PostgreSQL or `vidan up`, and check DATABASE_URL",
    )
