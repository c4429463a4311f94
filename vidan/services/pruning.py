"""Weeks of predictions that are given up: dropped whole, with their scenarios marked `pruned`."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from vidan.domain.status import ENDED, Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import partitions
from vidan.protocol.transitions import sql_list

_LOCK = 7_305_804_402
"""The advisory transaction lock under which a week is pruned (any constant of vidan's own)."""

LOCK_MS = 200
"""So long one try waits for the readers of `predictions`: whoever comes meanwhile waits too."""
TRIES = 60
PAUSE_SECONDS = 0.5
NAMED = 5
"""So many of the scenarios that hold a week up are named."""

Before = datetime | timedelta


@dataclass(frozen=True, slots=True)
class Week:
    """A week that was, or could be, pruned.

    `unfinished` are the first of the scenarios that have not ended: then nothing of it is touched.
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
    """Return the weeks that had ended by then and have a partition, the oldest first.

    One that ended within the last hour is not among them: a transaction may still create in it.
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
    return [_look(connection, week) for week in ended]


def _look(connection: Connection, week: date) -> Week:
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


def prune(connection: Connection, week: date) -> Week | None:
    """Drop a week with all that its scenarios have stored, and mark those that had `pruned`.

    What never stored a frame has lost nothing: of that, what may still run comes into this week.
    All in the caller's transaction: a week is whole, or it is pruned. One with scenarios that have
    not ended is left as it is. None if the week has no partition (any more). Readers of other weeks
    are held up for a moment at most. Raises DatabaseUnavailable when somebody uses `predictions`
    without a pause.
    """
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    if week not in partitions.existing(connection):
        return None
    this_week = partitions.this_week(connection)
    partitions.ensure_week(connection, this_week)
    # whoever starts one of them now waits, then finds it pruned
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
    _mark(connection, [row.id for row in rows if row.stored])
    empty = [row.id for row in rows if not row.stored and row.status != Status.COMPLETED]
    connection.execute(
        text("UPDATE scenarios SET week = :week WHERE id = ANY(CAST(:ids AS bigint[]))"),
        {"week": this_week, "ids": empty},
    )
    _drop(connection, week)
    return Week(week, len(rows), size)


def _mark(connection: Connection, ids: Sequence[int]) -> None:
    for statement in (
        "DELETE FROM gaps WHERE scenario_id = ANY(CAST(:ids AS bigint[]))",
        "UPDATE scenarios SET pruned = true WHERE id = ANY(CAST(:ids AS bigint[]))",
    ):
        connection.execute(text(statement), {"ids": ids})


def _drop(connection: Connection, week: date) -> None:
    """Drop the partition in a moment when nobody uses `predictions`.

    DROP wants the whole table for itself, for milliseconds: what waits for that behind a long read
    would hold up every commit, so it waits a little, and tries again. DETACH CONCURRENTLY would
    wait better, but in transactions of its own: killed between them it leaves half a week.
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
        hint="end the long transaction that pg_stat_activity shows, and run it again",
    )
