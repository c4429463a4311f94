"""What happens, as it becomes known: the transitions of all scenarios, followed without a miss.

Their ids are drawn when a row is written and seen when its transaction commits: one that commits
late brings rows whose ids lie below some that were read long ago. So the ids that were passed over
are remembered, and looked up again until every transaction that may still bring them has ended.
Nothing waits meanwhile, also not for somebody's transaction of hours in the same server. (Whoever
writes a transition has changed its scenario before, in the same transaction: so the transaction has
a number by then. It may be higher than all that the snapshot knows of, which ends with the last
that has ended: so the number that comes next is asked for after the snapshot.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.status import Status
from vidan.protocol import storable

PAGE = 1_000
SKIPPED_AT_ONCE = 100_000
LATE_SECONDS = 60.0
"""A transaction that changes scenarios ends within this: a session that idles longer is ended."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a scenario's status. What is known of a scenario is None once it is deleted."""

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
    """Which events are wanted; None: all."""

    task: str | None = None
    status: Collection[Status] | None = None
    scenario_id: int | None = None
    since: datetime | None = None


_NOT_ASKED = 2**64
"""Above the numbers of all transactions."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """Ids `low`…`high` that were passed over, drawn by transactions below `until`, if at all.

    Once no transaction below `until` runs any more, what is not there will never be.
    """

    low: int
    high: int
    until: int = _NOT_ASKED


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody has read: all up to `last`, except for what lay in the gaps."""

    last: int = 0
    gaps: tuple[_Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, in the order of their ids; `more`: there was no room for all that is known."""

    events: list[Event]
    position: Position
    more: bool


# one statement, so one snapshot: `seen` says from which transaction on it did not see all
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
# the number that the next transaction gets; unlike pg_current_xact_id() it takes none, so that a
# standby can be read, too
_NEXT = """
SELECT CAST(CAST(pg_snapshot_xmax(seen) AS text) AS bigint)
       + age(CAST(pg_snapshot_xmax(seen) AS xid))
FROM pg_current_snapshot() AS seen
"""


def read(connection: Connection, position: Position, wanted: Wanted, *, limit: int = PAGE) -> Page:
    """Return what has become known since `position`, and the position after it.

    One page: of the rows that were looked at, those that are wanted. A transaction reads one only:
    PostgreSQL answers all of it with the same next number.
    """
    page = _look(connection, position, wanted, limit)
    return replace(page, position=_bounded(connection, page.position))


def now(connection: Connection) -> Position:
    """Return the position after all that is known: what commits from now on is read from there."""
    at = connection.execute(text("SELECT now()")).scalar_one()
    position = since(connection, at)
    nothing = Wanted(status=())
    while True:
        page = _look(connection, position, nothing, SKIPPED_AT_ONCE)
        position = page.position
        if not page.more:
            return _bounded(connection, position)


def _bounded(connection: Connection, position: Position) -> Position:
    """Return the position after a look, with bounds for the gaps that it has found."""
    if all(gap.until < _NOT_ASKED for gap in position.gaps):
        return position
    until = connection.execute(text(_NEXT)).scalar_one()
    gaps = (replace(gap, until=min(gap.until, until)) for gap in position.gaps)
    return replace(position, gaps=tuple(gaps))


def _look(connection: Connection, position: Position, wanted: Wanted, limit: int) -> Page:
    """Return the next page; the gaps that it passes over have no bound yet."""
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
        # the changes of one scenario wait for each other: of these, none comes late
        gaps += [_Gap(low, high) for low, high in row.gaps or []]
    return Page(
        [_event(one) for one in row.events or []],
        Position(row.last or position.last, tuple(gaps)),
        more=row.fresh == limit or len(late) >= limit,
    )


def moment(connection: Connection, ago: timedelta) -> datetime:
    """Return the time of the database so long ago."""
    found: datetime = connection.execute(
        text("SELECT now() - CAST(:ago AS interval)"), {"ago": ago}
    ).scalar_one()
    return found


def since(connection: Connection, at: datetime) -> Position:
    """Return a position before all that happened at `at` or later.

    Ids are searched, not times: transactions begin in another order than they draw ids, so it goes
    back further by as much as one may take.
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
    """Return the gaps without the ids, in rising order, that have been found in them."""
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
            "at": datetime.fromisoformat(row["at"]),
            "from_status": row["from_status"] and Status(row["from_status"]),
            "to_status": Status(row["to_status"]),
        }
    )
