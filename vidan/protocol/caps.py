"""Caps of a task over the whole cluster: how many scenarios run at once, how often one starts.

A claim locks the task's row in `tasks`, then counts the scenarios of the task that workers hold and
the starts that its rate still allows. A second claim of the same task finds the row locked and
leaves the task for later.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_INTEGER
from vidan.errors import InputRejected
from vidan.protocol import storable

_RATE = re.compile(r"([1-9][0-9]{0,5})/([smh])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Rate(NamedTuple):
    """How often a task may start: a token bucket.

    `interval` is the seconds from one start to the next. `burst` is the number of starts that may
    happen at once after a pause: one second's worth, at least one.
    """

    interval: float
    burst: float


class Room(NamedTuple):
    """How many more scenarios of a task may be claimed now.

    `interval` is the seconds from one start to the next, None for a task without a rate.
    """

    starts: int
    interval: float | None


def parse_rate(rate_limit: str) -> Rate:
    """Read a rate such as `10/m`. Raises InputRejected."""
    found = _RATE.fullmatch(rate_limit)
    if found is None:
        raise InputRejected(
            f"rate_limit={rate_limit!r} is not a rate",
            hint="a whole number a second, minute or hour, up to 999999: 10/s, 10/m, 10/h",
        )
    interval = _UNIT_SECONDS[found[2]] / int(found[1])
    return Rate(interval, max(1.0, 1 / interval))


def check(concurrency: int | None, rate_limit: str | None) -> None:
    """Check the caps that a task is registered with. Raises InputRejected."""
    if concurrency is not None and not (
        storable.is_whole(concurrency) and 1 <= concurrency <= MAX_INTEGER
    ):
        raise InputRejected(
            f"concurrency={concurrency!r} is out of range",
            hint="a whole number, 1 or more; leave it out for no limit",
        )
    if rate_limit is not None:
        parse_rate(str(rate_limit))


# Only tasks with a due scenario are locked, so that other claims find the other tasks free.
_LOCK = """
    SELECT t.name FROM tasks t
    WHERE t.name = ANY(CAST(:names AS text[])) AND EXISTS (
        SELECT 1 FROM unnest(CAST(:queues AS text[])) AS q (queue) CROSS JOIN LATERAL (
            SELECT 1 FROM scenarios s WHERE s.status = 'init_startup' AND s.queue = q.queue
              AND s.task = t.name AND s.not_before <= now() LIMIT 1
        ) due
    )
    ORDER BY t.name FOR NO KEY UPDATE OF t SKIP LOCKED
"""
# A separate statement: its snapshot is younger than the locks, so it sees what the claims before
# this one, which held these locks, have claimed.
_COUNT = """
    SELECT t.name, t.concurrency, t.rate_limit,
        coalesce(extract(epoch FROM t.rate_next - now()), 0)::float8 AS used_ahead,
        CASE WHEN t.concurrency IS NOT NULL THEN (
            SELECT count(*) FROM (
                SELECT 1 FROM scenarios s WHERE s.worker_id IS NOT NULL AND s.task = t.name
                LIMIT t.concurrency
            ) one
        ) END AS held
    FROM tasks t WHERE t.name = ANY(CAST(:names AS text[]))
"""


def rooms(connection: Connection, names: Sequence[str], queues: Sequence[str]) -> dict[str, Room]:
    """Lock the capped tasks that have due scenarios and that no other claim has locked, and count.

    Returns the tasks with room for at least one more scenario. The locks last until the
    transaction ends.
    """
    due = {"names": list(names), "queues": list(queues)}
    locked = [row.name for row in connection.execute(text(_LOCK), due)]
    if not locked:
        return {}
    found = {}
    for row in connection.execute(text(_COUNT), {"names": locked}):
        starts, interval = MAX_INTEGER, None
        if row.concurrency is not None:
            starts = row.concurrency - row.held
        if row.rate_limit is not None:
            rate = parse_rate(row.rate_limit)
            interval = rate.interval
            if row.used_ahead > rate.burst * interval + 1:  # the database's clock was set back
                _reset(connection, row.name, rate)
            allowed = math.floor(rate.burst - max(0.0, row.used_ahead) / interval)
            starts = min(starts, allowed)
        if starts > 0:
            found[row.name] = Room(starts, interval)
    return found


def _reset(connection: Connection, name: str, rate: Rate) -> None:
    """Plan the next start of a task as late as its rate allows: one full burst from now."""
    connection.execute(
        text(
            "UPDATE tasks SET rate_next = now() + make_interval(secs => :seconds)"
            " WHERE name = :name"
        ),
        {"name": name, "seconds": rate.burst * rate.interval},
    )


def spend(connection: Connection, found: Mapping[str, Room], claimed: Iterable[str]) -> None:
    """Charge the claimed scenarios to the rates of their tasks; `claimed` has one name for each."""
    seconds = {
        name: number * interval
        for name, number in Counter(claimed).items()
        if name in found and (interval := found[name].interval) is not None
    }
    if not seconds:
        return
    connection.execute(
        text(
            "UPDATE tasks t SET rate_next = greatest(t.rate_next, now())"
            " + make_interval(secs => r.seconds)"
            " FROM unnest(CAST(:names AS text[]), CAST(:seconds AS float8[])) AS r (name, seconds)"
            " WHERE t.name = r.name"
        ),
        {"names": list(seconds), "seconds": list(seconds.values())},
    )
