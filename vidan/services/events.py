"""Events: the transitions of all scenarios, read page by page without missing any.

A transition's id is drawn when its row is written, and the row becomes visible when its transaction
commits. A transaction that commits late therefore adds rows whose ids are below ids that were read
long ago. So the reader remembers the ids that it passed over, and reads them again until every
transaction that may still add them has ended. Nothing waits meanwhile, not even for another
session's transaction that lasts for hours.

A transaction has a number when it draws the id of a transition, because it has changed the scenario
before. This number may be higher than all numbers of the reader's snapshot, which ends with the
last transaction that has ended. So the reader asks for the next number after it took the snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from vidan.db.reading import json_time
from vidan.domain.status import Status, status_of
from vidan.protocol import storable

MAX_PAGE = 1_000
"""Most transitions that one page reads."""

SKIPPED_AT_ONCE = 100_000
"""Transitions that one statement passes over when a reader starts at the newest one."""

LATE_SECONDS = 60.0
"""Longest time, in seconds, that a transaction which changes scenarios lasts: the server ends a
session that idles in a transaction for longer."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a scenario's status. The scenario's own fields are None once it is deleted."""

    id: int
    at: datetime
    scenario_id: int
    from_status: Status | None
    to_status: Status
    reason: str | None
    actor: str | None
    task: str | None
    queue: str | None
    name: str | None
    source: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "scenario_id": self.scenario_id,
            "from": self.from_status,
            "to": self.to_status,
            "reason": self.reason,
            "actor": self.actor,
            "task": self.task,
            "queue": self.queue,
            "name": self.name,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are wanted; None does not restrict them."""

    task: str | None = None
    status: Collection[Status] | None = None
    scenario_id: int | None = None
    since: datetime | None = None


_NOT_ASKED = 2**64
"""Bound of a gap for which the next transaction's number was not asked yet: above all numbers."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """Ids from `low` to `high` that were passed over, drawn by transactions below `until`, if any.

    Once all transactions below `until` have ended, no row of the gap can appear any more.
    """

    low: int
    high: int
    until: int = _NOT_ASKED


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader has read: all ids up to `last` except those in the gaps."""

    last: int = 0
    gaps: tuple[_Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, in the order of their ids; `more`: another page can be read at once."""

    events: list[Event]
    position: Position
    more: bool


# One statement has one snapshot; `seen` tells from which transaction on the snapshot is incomplete.
_READ = """
WITH fresh AS (
    SELECT * FROM transitions t WHERE t.id > :last{of_scenario} ORDER BY t.id LIMIT :page
),
late AS (
    SELECT t.* FROM jsonb_to_recordset(CAST(:gaps AS jsonb)) AS g (low bigint, high bigint)
    CROSS JOIN LATERAL (
        SELECT * FROM transitions t WHERE t.id BETWEEN g.low AND g.high ORDER BY t.id LIMIT :page
    ) t
    LIMIT :page
),
steps AS (SELECT id, lag(id, 1, :last) OVER (ORDER BY id) AS before FROM fresh),
chosen AS (
    SELECT t.id, t.at, t.scenario_id, t.from_status, t.to_status, t.reason, t.actor,
           s.task, s.queue, s.name, s.source
    FROM (SELECT * FROM late UNION ALL SELECT * FROM fresh) t
    LEFT JOIN scenarios s ON s.id = t.scenario_id
    WHERE {wanted}
)
SELECT CAST(CAST(pg_snapshot_xmin(seen) AS text) AS bigint) AS running_from,
       (SELECT count(*) FROM fresh) AS fresh,
       (SELECT max(id) FROM fresh) AS last,
       (SELECT jsonb_agg(jsonb_build_array(before + 1, id - 1) ORDER BY id)
        FROM steps WHERE id > before + 1) AS gaps,
       (SELECT jsonb_agg(id ORDER BY id) FROM late) AS late,
       (SELECT jsonb_agg(to_jsonb(chosen) ORDER BY id) FROM chosen) AS events
FROM pg_current_snapshot() AS seen
"""
# The number that the next transaction gets. Unlike pg_current_xact_id() this does not assign a
# number, so it works on a standby too.
_NEXT = """
SELECT CAST(CAST(pg_snapshot_xmax(seen) AS text) AS bigint)
       + age(CAST(pg_snapshot_xmax(seen) AS xid))
FROM pg_current_snapshot() AS seen
"""


def read(
    connection: Connection, position: Position, wanted: Wanted, *, limit: int = MAX_PAGE
) -> Page:
    """Return the events that became visible since `position`, and the position after them.

    A page holds the wanted events among the rows that it read. Read one page a transaction:
    within a transaction PostgreSQL always returns the same next number.
    """
    page = _next_page(connection, position, wanted, limit)
    return replace(page, position=_bounded(connection, page.position))


def now(connection: Connection) -> Position:
    """Return the position after all visible events: a reader gets those that commit from now on."""
    at = connection.execute(text("SELECT now()")).scalar_one()
    position = since(connection, at)
    nothing = Wanted(status=())
    while True:
        page = _next_page(connection, position, nothing, SKIPPED_AT_ONCE)
        position = page.position
        if not page.more:
            return _bounded(connection, position)


def moment(connection: Connection, ago: timedelta) -> datetime:
    """Return the database's time, less a time span."""
    found: datetime = connection.execute(
        text("SELECT now() - CAST(:ago AS interval)"), {"ago": ago}
    ).scalar_one()
    return found


def since(connection: Connection, at: datetime) -> Position:
    """Return a position before all events that happened at `at` or later.

    This is a binary search by id. Transactions begin in another order than they draw ids, so it
    goes back further by the longest time that a transaction may last.
    """
    low, high = connection.execute(
        text("SELECT coalesce(min(id), 1), coalesce(max(id), 0) + 1 FROM transitions")
    ).one()
    earlier = at - timedelta(seconds=LATE_SECONDS)
    while low < high:
        middle = (low + high) // 2
        later = connection.execute(
            text("SELECT at >= :at FROM transitions WHERE id >= :id ORDER BY id LIMIT 1"),
            {"at": earlier, "id": middle},
        ).scalar()
        if later is False:
            low = middle + 1
        else:
            high = middle
    return Position(low - 1)


def _bounded(connection: Connection, position: Position) -> Position:
    """Return the position after a page, with a bound for each gap that the page has found."""
    if all(gap.until < _NOT_ASKED for gap in position.gaps):
        return position
    until = connection.execute(text(_NEXT)).scalar_one()
    gaps = (replace(gap, until=min(gap.until, until)) for gap in position.gaps)
    return replace(position, gaps=tuple(gaps))


def _next_page(connection: Connection, position: Position, wanted: Wanted, limit: int) -> Page:
    """Return the next page; the gaps that it finds have no bound yet."""
    conditions, parameters = _conditions(wanted)
    of_scenario = "" if wanted.scenario_id is None else " AND t.scenario_id = :scenario"
    statement = _READ.format(of_scenario=of_scenario, wanted=" AND ".join(conditions))
    row = connection.execute(
        text(statement),
        {
            "last": position.last,
            "page": limit,
            "gaps": storable.json_text(
                [{"low": gap.low, "high": gap.high} for gap in position.gaps]
            ),
            **parameters,
        },
    ).one()
    late = row.late or []
    gaps = _without(position.gaps, late)
    if len(late) < limit:
        gaps = [gap for gap in gaps if gap.until > row.running_from]
    if wanted.scenario_id is None:
        # Changes of one scenario wait for each other, so none of them becomes visible late.
        gaps += [_Gap(low, high) for low, high in row.gaps or []]
    return Page(
        [_event(one) for one in row.events or []],
        Position(row.last or position.last, tuple(gaps)),
        more=row.fresh == limit or len(late) >= limit,
    )


def _conditions(wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
    conditions = ["true"]
    parameters: dict[str, Any] = {}
    if wanted.task is not None:
        known = storable.is_text(wanted.task)
        conditions.append("s.task = :task" if known else "false")
        parameters.update({"task": wanted.task} if known else {})
    if wanted.status is not None:
        conditions.append("t.to_status = ANY(CAST(:status AS text[]))")
        parameters["status"] = [str(one) for one in wanted.status]
    if wanted.scenario_id is not None:
        conditions.append("t.scenario_id = :scenario")
        parameters["scenario"] = wanted.scenario_id
    if wanted.since is not None:
        conditions.append("t.at >= :since")
        parameters["since"] = wanted.since
    return conditions, parameters


def _without(gaps: Iterable[_Gap], found: Sequence[int]) -> list[_Gap]:
    """Return the gaps without the ids that were found in them; `found` is in rising order."""
    left: list[_Gap] = []
    ids = list(reversed(found))
    for gap in gaps:
        rest = gap
        while ids and ids[-1] <= gap.high:
            one = ids.pop()
            if rest.low < one:
                left.append(replace(rest, high=one - 1))
            rest = replace(rest, low=one + 1)
        if rest.low <= rest.high:
            left.append(rest)
    return left


def _event(row: dict[str, Any]) -> Event:
    return Event(
        **{
            **row,
            "at": json_time(row["at"]),
            "from_status": row["from_status"] and status_of(row["from_status"]),
            "to_status": status_of(row["to_status"]),
        }
    )
