"""The partitions of `predictions`, one for each week.

The orchestrator makes them ahead; otherwise the first scenario of a week makes its partition.
"""

from __future__ import annotations

from datetime import date, timedelta

from sqlalchemy import Connection, text

from vidan.db.weeks import THIS_WEEK

_LOCK = 7_305_804_401
"""Number, chosen freely, of the advisory transaction lock under which partitions are made."""


def this_week(connection: Connection) -> date:
    """Return the Monday (UTC) of the current week, by the database's clock."""
    found: date = connection.execute(text(f"SELECT {THIS_WEEK}")).scalar_one()
    return found


def ensure_week(connection: Connection, week: date) -> bool:
    """Make the partition of `week` unless it exists. Returns whether it was made.

    CREATE, then ATTACH, because `CREATE TABLE … PARTITION OF` would wait for every reader of
    `predictions` and block COPY meanwhile.
    """
    name = _name(week)
    if _exists(connection, name):
        return False
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    if _exists(connection, name):  # another transaction made it while this one waited
        return False
    connection.execute(
        text(f"CREATE TABLE {name} (LIKE predictions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    )
    connection.execute(
        text(f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES IN ('{week}')")
    )
    return True


def ensure_ahead(connection: Connection, weeks: int = 2) -> list[date]:
    """Make the partitions of this week and of the next `weeks`. Returns the weeks made."""
    return [week for week in _weeks(connection, weeks) if ensure_week(connection, week)]


def missing(connection: Connection, weeks: int = 1) -> list[date]:
    """Return the weeks, of this one and the next `weeks`, that have no partition."""
    return [week for week in _weeks(connection, weeks) if not _exists(connection, _name(week))]


def existing(connection: Connection) -> list[date]:
    """Return the weeks that have a partition, oldest first."""
    names = connection.execute(
        text(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = 'predictions'::regclass AND relname ~ '^predictions_[0-9]{8}$'"
            " ORDER BY relname"
        )
    ).scalars()
    return [date.fromisoformat(name.removeprefix("predictions_")) for name in names]


def size(connection: Connection, week: date) -> int:
    """Return the bytes that a week takes on disk, its index included; 0 without a partition."""
    found = connection.execute(
        text("SELECT coalesce(pg_total_relation_size(to_regclass(:name)), 0)"),
        {"name": _name(week)},
    )
    return int(found.scalar_one())


def drop(connection: Connection, week: date) -> None:
    """Drop a week's partition.

    This waits until no session uses `predictions`, and every later statement waits behind it.
    """
    connection.execute(text(f"DROP TABLE {_name(week)}"))


def _weeks(connection: Connection, more: int) -> list[date]:
    monday = this_week(connection)
    return [monday + timedelta(weeks=ahead) for ahead in range(more + 1)]


def _name(week: date) -> str:
    return f"predictions_{week:%Y%m%d}"


def _exists(connection: Connection, name: str) -> bool:
    found = connection.execute(
        text("SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass(:name))"),
        {"name": name},
    )
    return bool(found.scalar())
