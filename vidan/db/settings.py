"""What each session is set to, whatever the database, the role or a pooler would give it.

A connection to PostgreSQL itself is set once, when it is opened. Behind a connection pooler a
session lasts for one transaction: the same settings are made in each, and end with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg
import sqlalchemy
from psycopg import IsolationLevel

from vidan.config import sqlalchemy_url

TIMEOUT_SECONDS = 5
"""Connect, statement, lock and idle time-out of workers and orchestrators, in seconds."""

STOPPED_SECONDS = 60
"""Longest time, in seconds, that a transaction of other clients may idle: a command under Ctrl-Z,
for example."""

_NEUTRAL: Mapping[str, str] = {
    # How values are written and read: psycopg and SQLAlchemy understand all of these.
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    # Which tables are meant, and that their constraints hold.
    "search_path": '"$user", public',
    "row_security": "on",
    "session_replication_role": "origin",
    # What a transaction may see, and how long it may take.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",
    "gin_fuzzy_search_limit": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
}
"""PostgreSQL's defaults of what vidan relies on. A database or role that is made read-only stays
so, and `synchronous_commit` stays the server's: these two are an operator's decisions."""

_NEWER: Mapping[str, int] = {"idle_session_timeout": 140_000, "transaction_timeout": 170_000}
"""Time-outs that are switched off from the server version on that has them."""

_FEW_ROWS: Mapping[str, str] = {
    "enable_seqscan": "off",
    "enable_indexscan": "on",
    "enable_bitmapscan": "on",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
"""Planner settings of workers and orchestrators. Each of their statements needs a few rows, by an
index; with old statistics, or none, the planner could otherwise read a million rows."""

_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.]*)=((?:\\.|[^\s\\])*)\s*")

# Few roles may set the one setting that is left alone if it is right.
_SET = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.count(
    CASE WHEN (name <> 'session_replication_role'
               OR pg_catalog.current_setting(name) IS DISTINCT FROM value)
              AND pg_catalog.pg_backend_pid() = coalesce(%(pid)s::integer, pg_backend_pid())
         THEN pg_catalog.set_config(name, value, %(pid)s::integer IS NULL) END)
FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
"""


def client_settings(*, guarded: bool) -> dict[str, str | int]:
    """Return libpq's settings: within seconds they find a server host that is gone."""
    settings: dict[str, str | int] = {
        "connect_timeout": TIMEOUT_SECONDS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "client_encoding": "UTF8",
    }
    return settings | ({"tcp_user_timeout": TIMEOUT_SECONDS * 1000} if guarded else {})


def server_settings(*, guarded: bool, durable: bool) -> dict[str, str]:
    """Return the settings of the server's session: its time-outs, in milliseconds, among them."""
    settings = dict(_NEUTRAL)
    if guarded:
        limit = str(TIMEOUT_SECONDS * 1000)
        settings |= {
            "idle_in_transaction_session_timeout": limit,
            "statement_timeout": limit,
            "lock_timeout": limit,
            **_FEW_ROWS,
            # With these the server drops the locks of a client host that is gone within seconds,
            # not hours.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": limit,
        }
    else:
        settings["idle_in_transaction_session_timeout"] = str(STOPPED_SECONDS * 1000)
    return settings if durable else settings | {"synchronous_commit": "off"}


def split_options(url: str) -> tuple[sqlalchemy.URL, dict[str, str]]:
    """Return SQLAlchemy's URL without its `options`, and the settings that they name.

    A pooler refuses options when a connection is opened; options that are not of the form
    `-c name=value` stay in the URL.
    """
    parsed = sqlalchemy.make_url(sqlalchemy_url(url))
    given = parsed.query.get("options", "")
    text = given if isinstance(given, str) else " ".join(given)
    if not text or not re.fullmatch(rf"\s*(?:{_OPTION.pattern})+", text):
        return parsed, {}
    found = {name: re.sub(r"\\(.)", r"\1", value) for name, value in _OPTION.findall(text)}
    return parsed.difference_update_query(["options"]), found


def prepare(opened: psycopg.Connection[Any], settings: Mapping[str, str]) -> bool:
    """Set the session of a new connection, and return whether a pooler stands before the server.

    Behind a pooler nothing is set: the session belongs to others as soon as the transaction ends.
    A pooler makes up the process id that it tells a client, so the id is not the server's.
    """
    autocommit, opened.autocommit = opened.autocommit, True
    pid = opened.pgconn.backend_pid
    row = opened.execute(_SET, _parameters(opened, settings, pid)).fetchone()
    opened.autocommit = autocommit
    opened.isolation_level = IsolationLevel.READ_COMMITTED
    return row is None or row[0] != pid


def prepare_transaction(opened: psycopg.Connection[Any], settings: Mapping[str, str]) -> None:
    """Make the settings for the transaction that begins, the first statement of which this is."""
    own = {name: value for name, value in settings.items() if not name.startswith("tcp_")}
    opened.execute(_SET, _parameters(opened, own, None))


def _parameters(
    opened: psycopg.Connection[Any], settings: Mapping[str, str], pid: int | None
) -> dict[str, Any]:
    version = opened.info.server_version
    off = {name: "0" for name, since in _NEWER.items() if version >= since}
    wanted = {**off, **settings}
    return {"pid": pid, "names": list(wanted), "values": list(wanted.values())}
