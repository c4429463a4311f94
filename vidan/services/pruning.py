"""Pruning: drop whole weeks of predictions, and mark their scenarios as `pruned`."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from vidan.domain.status import ENDED, Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import partitions
from vidan.protocol.changes import sql_list

_LOCK = 7_305_804_402
"""Number, chosen freely, of the advisory transaction lock under which a week is pruned."""

LOCK_MS = 200
"""Longest time, in milliseconds, that one try waits for the readers of `predictions`: later readers
wait behind it."""

TRIES = 60
"""Most tries to drop a partition."""

PAUSE_SECONDS = 0.5
"""Pause between two tries, in seconds, on average."""

NAMED = 5
"""Most unfinished scenarios of a week that are named."""

Before = datetime | timedelta
"""A moment, or a time span before now."""


@dataclass(frozen=True, slots=True)
class Week:
    """A week that was pruned, or could be.

    `unfinished` are the first of its scenarios that have not ended; with such scenarios a week is
    not pruned.
    """

    week: date
    scenarios: int
    size: int  # bytes on disk, index included
    unfinished: tuple[int, ...] = ()
    unfinished_count: int = 0

    def as_json(self, *, pruned: bool) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "week": self.week.isoformat(),
            "scenarios": self.scenarios,
            "bytes": self.size,
            "pruned": pruned,
            "unfinished": self.unfinished_count,
        }


def weeks_before(connection: Connection, before: Before) -> list[Week]:
    """Return the weeks that ended before a moment and have a partition, oldest first.

    A week that ended within the last hour is left out: a transaction may still create scenarios in
    it.
    """
    moment = connection.execute(
        text(
            "SELECT least(now() - interval '1 hour', coalesce(CAST(:at AS timestamptz),"
            " now() - CAST(:age AS interval))) AT TIME ZONE 'UTC'"
        ),
        {
            "at": before if isinstance(before, datetime) else None,
            "age": before if isinstance(before, timedelta) else None,
        },
    ).scalar_one()
    ended = [
        week
        for week in partitions.existing(connection)
        if week + timedelta(weeks=1) <= moment.date()
    ]
    return [_count(connection, week) for week in ended]


def prune(connection: Connection, week: date) -> Week | None:
    """Drop a week's predictions, and mark its scenarios that had stored some as `pruned`.

    A scenario that never stored a frame has lost nothing; unless it is completed, it moves into the
    current week, where it may still run. All of this happens in the caller's transaction, so a week
    is whole or pruned. A week with scenarios that have not ended stays as it is. Returns None if
    the week has no partition. Readers of other weeks wait for a moment at most. Raises
    DatabaseUnavailable if other sessions use `predictions` all the time.
    """
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    if week not in partitions.existing(connection):
        return None
    this_week = partitions.this_week(connection)
    partitions.ensure_week(connection, this_week)
    # A transaction that starts one of these scenarios now waits, and then finds it pruned.
    rows = connection.execute(
        text(
            "SELECT id, status, checkpoint > 0 OR frames_done > 0 AS stored FROM scenarios"
            " WHERE week = :week ORDER BY id FOR NO KEY UPDATE"
        ),
        {"week": week},
    ).all()
    size = partitions.size(connection, week)
    unfinished = [row.id for row in rows if row.status not in ENDED]
    if unfinished:
        return Week(week, len(rows), size, tuple(unfinished[:NAMED]), len(unfinished))
    _mark(connection, rows, this_week)
    _drop(connection, week)
    return Week(week, len(rows), size)


def _count(connection: Connection, week: date) -> Week:
    found = connection.execute(
        text(
            "SELECT count(*) AS scenarios,"
            f" count(*) FILTER (WHERE status NOT IN ({sql_list(ENDED)})) AS unfinished_count,"
            f" (array_agg(id ORDER BY id) FILTER (WHERE status NOT IN ({sql_list(ENDED)})))"
            "[1:CAST(:named AS integer)] AS unfinished"
            " FROM scenarios WHERE week = :week"
        ),
        {"week": week, "named": NAMED},
    ).one()
    return Week(
        week,
        found.scenarios,
        partitions.size(connection, week),
        tuple(found.unfinished or ()),
        found.unfinished_count,
    )


def _mark(connection: Connection, rows: Sequence[Row[Any]], this_week: date) -> None:
    """Mark the scenarios that have stored a frame; move the others into the current week."""
    pruned = [row.id for row in rows if row.stored]
    empty = [row.id for row in rows if not row.stored and row.status != Status.COMPLETED]
    for statement, ids in (
        ("DELETE FROM gaps WHERE scenario_id = ANY(CAST(:ids AS bigint[]))", pruned),
        ("UPDATE scenarios SET pruned = true WHERE id = ANY(CAST(:ids AS bigint[]))", pruned),
        ("UPDATE scenarios SET week = :week WHERE id = ANY(CAST(:ids AS bigint[]))", empty),
    ):
        connection.execute(text(statement), {"ids": ids, "week": this_week})


def _drop(connection: Connection, week: date) -> None:
    """Drop the partition in a moment when no session uses `predictions`.

    DROP needs an exclusive lock on the whole table for milliseconds. Waiting for it behind a long
    read would block every commit, so each try waits only briefly. DETACH CONCURRENTLY would not
    block, but needs two transactions: killed between them, it would leave half a week.
    """
    for _ in range(TRIES):
        try:
            with connection.begin_nested():
                connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
                partitions.drop(connection, week)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":
                raise
            time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
        else:
            return
    raise DatabaseUnavailable(
        f"the week of {week} could not be dropped: predictions were in use all the time",
        hint="end the long transaction that pg_stat_activity shows, and try again",
    )
