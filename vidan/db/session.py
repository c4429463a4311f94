"""Connections: one engine, transactions that roll back by default, errors distinguished by type."""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakSet

import psycopg
import sqlalchemy
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from vidan.config import shown_url
from vidan.db import reading, settings
from vidan.db.bounded import BoundedConnection
from vidan.errors import DatabaseUnavailable, UsageError

__all__ = ["Connection", "Database"]

P = ParamSpec("P")
T = TypeVar("T")

IDLE_SECONDS = 10.0
"""Age, in seconds, from which an idle pooled connection is tested before it is used.

Longer than the pauses of heartbeats and sweeps: with a thousand workers each test counts.
"""

_CONFLICTS = ("40P01", "40001")
_CONFLICT_TRIES = 10
"""Most times that a transaction which ends in a conflict is tried."""

_READ_ONLY = "25006"
_NAMED: Mapping[str, tuple[str, str]] = {
    _READ_ONLY: (
        "the database is read-only",
        "it is a standby, or default_transaction_read_only is on: name the primary, or switch it "
        "off",
    ),
    "53100": (
        "the database's disk is full",
        "free space on the disk of PostgreSQL; what was stored stays, and workers try again",
    ),
}
"""SQLSTATE → what is wrong, and how to fix it."""
_UNREACHED = (
    "can't reach the database",
    "start PostgreSQL or `vidan up`, and check DATABASE_URL",
)
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


class Database:
    """A database at `url`; connections are made when they are first needed.

    `direct` is for workers, supervisors and orchestrators, which need sessions of PostgreSQL
    itself: a connection pooler is refused with a UsageError. All others pass through poolers.
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
        direct: bool = False,
        pool_size: int = 5,
        durable: bool = True,
    ) -> None:
        self.url = url
        self._name = application_name
        self._silent: set[int] = set()  # server processes given up, which may still hold locks
        self._direct = direct
        self._pooled: WeakSet[object] = WeakSet()  # connections to a pooler
        self._connect = BoundedConnection.connect if guarded else psycopg.Connection.connect
        self._target, given = settings.split_options(url)
        self._settings = settings.server_settings(guarded=guarded, durable=durable) | given
        self._arguments: dict[str, Any] = {
            **settings.client_settings(guarded=guarded),
            "application_name": application_name,
        }
        if not direct:  # behind a pooler, another client's statement could run by the same name
            self._arguments["prepare_threshold"] = None
        self._engine = sqlalchemy.create_engine(
            self._target,
            connect_args=self._arguments,
            pool_size=pool_size,
            max_overflow=5,
            pool_timeout=settings.TIMEOUT_SECONDS,
            pool_recycle=1800,
        )
        event.listen(self._engine, "do_connect", self._opened)
        event.listen(self._engine, "begin", self._begun)
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

        Behind a pooler all are one transaction, for which the settings can be made. Raises
        DatabaseUnavailable, as `begin` does.
        """
        with self._translated(), self._engine.connect() as connection:
            if connection.connection.dbapi_connection in self._pooled:
                with connection.begin():
                    yield connection
                return
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if self._silent:
                self._end_silent(connection)
            yield connection

    def is_pooled(self) -> bool:
        """Return whether a connection pooler answers at the URL. Raises DatabaseUnavailable."""
        with self._translated(), self._engine.connect() as connection:
            return connection.connection.dbapi_connection in self._pooled

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into vidan's."""
        try:
            yield
        except (DBAPIError, sqlalchemy.exc.TimeoutError, psycopg.Error) as error:
            # COPY raises errors of psycopg, because it does not go through SQLAlchemy.
            if "statement pooling mode" in str(error):
                what = "is a connection pooler in statement mode, which has no transactions"
                raise self._refusal(what) from error
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
        url = self._target.set(drivername="postgresql")
        try:
            return self._open(url.render_as_string(hide_password=False), autocommit=True)
        except psycopg.OperationalError as error:
            raise database_error(error) from error

    def _opened(
        self, _dialect: object, _record: object, words: list[Any], options: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        return self._open(*words, **options)

    def _open(self, *words: Any, **options: Any) -> psycopg.Connection[Any]:
        """Open a connection and set its session. Raises UsageError for a pooler that is refused."""
        opened = self._connect(*words, **{**self._arguments, **options})
        try:
            with _named_refusals():
                pooled = settings.prepare(opened, self._settings)
            if pooled and self._direct:
                raise self._refusal(
                    "is a connection pooler, and workers, supervisors and orchestrators need "
                    "sessions of PostgreSQL itself"
                )
        except BaseException:
            opened.close()
            raise
        if pooled:
            self._pooled.add(opened)
        elif isinstance(opened, BoundedConnection):  # a pooler's process ids are not the server's
            opened.on_silence = self._silent.add
        reading.register(opened)
        return opened

    def _begun(self, connection: Connection) -> None:
        """Make the settings of a transaction behind a pooler."""
        opened = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)
        if opened in self._pooled:
            with _named_refusals():
                settings.prepare_transaction(opened, self._settings)

    def _refusal(self, what: str) -> UsageError:
        return UsageError(
            f"{shown_url(self.url)} {what}",
            hint="set VIDAN_DIRECT_DATABASE_URL to the address of PostgreSQL itself; other "
            "commands and the HTTP interface may use a pooler in transaction or session mode",
        )

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


@contextmanager
def _named_refusals() -> Iterator[None]:
    """Turn the server's refusal of a setting into a UsageError."""
    try:
        yield
    except psycopg.Error as error:
        if _is_unavailable(error):
            raise
        line = " ".join(str(error).split())
        raise UsageError(
            f"the database refuses a setting of the session: {line}",
            hint="check the options in the database's URL, and the rights of its role",
        ) from error


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
        # psycopg calls it internal if a pooler answers twice: with the server's end, and its own
        sqlalchemy.exc.TimeoutError
        | psycopg.OperationalError
        | psycopg.InterfaceError
        | psycopg.InternalError,
    )


def database_error(error: Exception) -> DatabaseUnavailable:
    """Return a driver's error as one of vidan's, in one line, with a hint how to fix it."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    line = " ".join(str(cause).split()) or type(cause).__name__
    state = _sqlstate(error)
    if state in _CONFLICTS:
        return DatabaseConflict(f"the database ended a conflict: {line}")
    what, hint = _NAMED.get(state or "", _UNREACHED)
    return DatabaseUnavailable(f"{what}: {line}", hint=hint)
