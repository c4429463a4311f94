"""Caps of a task over the whole cluster: how many run at once, and how often one starts.

What is held of a task is counted while its row in `tasks` is locked, and so are the starts that
its rate still allows: of two claims of the same task one finds it locked, and leaves it for now.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from vidan.errors import InputRejected
from vidan.protocol import storable

_RATE = re.compile(r"([1-9][0-9]{0,5})/([smh])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}
_ANY_NUMBER = 2**31 - 1


class Rate(NamedTuple):
    """How often a task may start: a token bucket.

    `interval`: seconds from one start to the next; `burst`: so many may start at once after a
    pause, one second's worth, and at least one.
    """

    interval: float
    burst: float


class Room(NamedTuple):
    """How many more of a task may be claimed now; seconds from one start to the next, if rated."""

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
    """Check what a task is registered with. Raises InputRejected."""
    if concurrency is not None and not (
        storable.is_whole(concurrency) and 1 <= concurrency <= _ANY_NUMBER
    ):
        raise InputRejected(
            f"concurrency={concurrency!r} is out of range",
            hint="a whole number, 1 or more; leave it out for no limit",
        )
    if rate_limit is not None:
        parse_rate(str(rate_limit))


# those alone of which something is due: others need not find them locked
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
# a statement of its own: its snapshot is younger than the locks, so that it sees what those who
# had them before have claimed
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
    """Lock the rows of those capped tasks that are due and not another's, and count.

    Returns the tasks of which at least one may be claimed, until the transaction ends.
    """
    due = {"names": list(names), "queues": list(queues)}
    locked = [row.name for row in connection.execute(text(_LOCK), due)]
    if not locked:
        return {}
    found = {}
    for row in connection.execute(text(_COUNT), {"names": locked}):
        starts, interval = _ANY_NUMBER, None
        if row.concurrency is not None:
            starts = row.concurrency - row.held
        if row.rate_limit is not None:
            rate = parse_rate(row.rate_limit)
            interval = rate.interval
            if row.used_ahead > rate.burst * interval + 1:  # the clock was set back
                _reset(connection, row.name, rate)
            allowed = math.floor(rate.burst - max(0.0, row.used_ahead) / interval)
            starts = min(starts, allowed)
        if starts > 0:
            found[row.name] = Room(starts, interval)
    return found


def _reset(connection: Connection, name: str, rate: Rate) -> None:
    """Let the next start be as late as it ever is."""
    connection.execute(
        text(
            "UPDATE tasks SET rate_next = now() + make_interval(secs => :seconds)"
            " WHERE name = :name"
        ),
        {"name": name, "seconds": rate.burst * rate.interval},
    )


def spend(connection: Connection, found: Mapping[str, Room], claimed: Iterable[str]) -> None:
    """Enter what was claimed of these tasks, each name as often as it was, into their rates."""
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
