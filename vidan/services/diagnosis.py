"""What is stuck, and why: queries of bounded cost, whose answers each name an id to examine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum, auto
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain.status import DesiredState
from vidan.services import versions
from vidan.services.workers import WorkerRow

SAMPLE = 2_000
"""Most rows of each queue and task that are read, in the order in which they are claimed."""

MAX_PAIRS = 100
"""Most pairs of queue and task that are examined."""

COUNTED = 1000
"""Counts end here: this number means this many or more."""


class Reason(Enum):
    """Why no worker has claimed a due scenario.

    The living workers are narrowed down in this order; the first step that leaves none is the
    reason.
    """

    NO_QUEUE = auto()  # no worker has its queue
    NO_TASK = auto()  # none of the workers with its queue has its task
    VERSION = auto()  # the workers left run older versions, which may refuse its params
    NO_SOURCE = auto()  # none of the workers left was started for its source
    SUSPECT = auto()  # it may have killed its process, and no worker left has a single slot
    DRAINING = auto()  # all workers left are draining
    CAPPED = auto()  # its task has reached its concurrency or rate in the whole cluster
    BUSY = auto()  # all workers left are busy
    FREE = auto()  # a worker left is free, but does not claim it


@dataclass(frozen=True, slots=True)
class Waiting:
    """Scenarios that have long been due, for one reason; the first has waited for `waited`.

    `workers` are the names of the workers that the reason is about. `source` is the source that
    they wait for, None if any worker that was started with a source can run them.
    """

    reason: Reason
    count: int
    first_id: int
    waited: timedelta
    queue: str
    task: str
    source: str | None = None
    workers: tuple[str, ...] = ()
    unsourced: bool = False  # they have no source of their own


@dataclass(frozen=True, slots=True)
class _Group:
    """Due scenarios that a claim does not distinguish."""

    queue: str
    task: str
    definition: str
    needs_source: bool
    unsourced: bool  # waits for a worker that was started with a source
    bound: bool  # only for workers that were started with its source
    named: str | None  # its source, if it is bound or a living worker was started with that source
    suspect: bool
    capped: bool  # its task has a rate, or has reached its concurrency
    count: int
    first_id: int
    waited: timedelta

    def fits_source(self, worker: WorkerRow) -> bool:
        if not self.needs_source:
            return True
        if self.unsourced:
            return worker.source is not None
        return worker.source == self.named or (worker.source is None and not self.bound)


# The index of claims is walked from one pair of queue and task to the next; then the first rows of
# each pair are read.
_LATE = """
WITH RECURSIVE pairs (queue, task) AS (
    (SELECT queue, task FROM scenarios WHERE status = 'init_startup' ORDER BY queue, task LIMIT 1)
    UNION ALL
    SELECT further.queue, further.task FROM pairs p CROSS JOIN LATERAL (
        SELECT s.queue, s.task FROM scenarios s
        WHERE s.status = 'init_startup' AND (s.queue, s.task) > (p.queue, p.task)
        ORDER BY s.queue, s.task LIMIT 1
    ) further
),
late AS (
    SELECT due.* FROM (SELECT queue, task FROM pairs LIMIT :pairs) p
    CROSS JOIN LATERAL (
        SELECT s.id, s.queue, s.task, s.needs_source, s.source, s.source_bound, s.crashes,
               s.not_before, s.definition
        FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = p.queue AND s.task = p.task
          AND s.not_before <= now() - :patience
        ORDER BY s.priority DESC, s.not_before LIMIT :sample
    ) due
)
SELECT queue, task, definition, needs_source, needs_source AND source IS NULL AS unsourced,
       needs_source AND source_bound AS bound,
       CASE WHEN needs_source AND (source_bound OR source = ANY(CAST(:sources AS text[])))
            THEN source END AS named,
       crashes > 1 AS suspect, coalesce((
           SELECT t.rate_limit IS NOT NULL OR t.concurrency <= (
               SELECT count(*) FROM scenarios h WHERE h.worker_id IS NOT NULL AND h.task = t.name
           ) FROM tasks t WHERE t.name = late.task
       ), false) AS capped, count(*) AS count,
       min(id) AS first_id, now() - min(not_before) AS waited
FROM late GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY min(not_before) LIMIT 500
"""


def waiting(
    connection: Connection, alive: Sequence[WorkerRow], *, patience: timedelta
) -> list[Waiting]:
    """Return the scenarios due for longer than `patience`, by reason, the longest wait first."""
    found = connection.execute(
        text(_LATE),
        {
            "patience": patience,
            "pairs": MAX_PAIRS,
            "sample": SAMPLE,
            "sources": [one.source for one in alive if one.source is not None],
        },
    ).mappings()
    groups = [_Group(**row) for row in found]
    runners = versions.runners(connection, {(one.task, one.definition) for one in groups})
    by_key: dict[Hashable, Waiting] = {}
    for group in groups:
        one = _explain(group, alive, runners[group.task, group.definition])
        key = (one.reason, *_subject(one))
        known = by_key.setdefault(key, one)
        if known is not one:
            by_key[key] = replace(known, count=known.count + one.count)
    return list(by_key.values())


def _explain(group: _Group, alive: Sequence[WorkerRow], runners: Collection[int] | None) -> Waiting:
    """Narrow the workers down by what a claim asks for; the step that leaves none is the reason.

    `runners` are the versions that run its definition, None if all do.
    """
    steps: tuple[tuple[Reason, Callable[[WorkerRow], bool]], ...] = (
        (Reason.NO_QUEUE, lambda w: group.queue in w.queues),
        (Reason.NO_TASK, lambda w: group.task in w.tasks),
        (
            Reason.VERSION,
            lambda w: runners is None or not w.versions or any(v in runners for v in w.versions),
        ),
        (Reason.NO_SOURCE, group.fits_source),
        (Reason.SUSPECT, lambda w: w.slots == 1 or not group.suspect),
        (Reason.DRAINING, lambda w: w.desired_state is DesiredState.RUNNING),
        (Reason.CAPPED, lambda _: not group.capped),
        (Reason.BUSY, lambda w: len(w.scenarios) < w.slots),
    )
    left = [one for one in alive if group.suspect or not one.quarantine]
    reason, about = Reason.FREE, left
    for tried, fits in steps:
        about, left = left, [one for one in left if fits(one)]
        if not left:
            reason = tried
            break
    else:
        about = left
    return Waiting(
        reason, group.count, group.first_id, group.waited, group.queue, group.task, group.named,
        tuple(sorted(one.name for one in about)), group.unsourced,
    )  # fmt: skip


def _subject(one: Waiting) -> tuple[Hashable, ...]:
    """Return what a reason names; scenarios with the same reason and subject are reported once."""
    match one.reason:
        case Reason.NO_TASK | Reason.VERSION:
            return (one.queue, one.task)
        case Reason.NO_SOURCE:
            return (one.queue, one.source, one.unsourced)
        case Reason.CAPPED:
            return (one.task,)
        case Reason.BUSY:
            return ()
        case _:
            return (one.queue,)


@dataclass(frozen=True, slots=True)
class Count:
    """A count, COUNTED at most, and the id to examine first."""

    count: int
    first_id: int | None


def _some(connection: Connection, rows: str, first: str, **parameters: Any) -> Count:
    statement = f"SELECT count(*) AS found, {first} AS first_id FROM ({rows} LIMIT :most) some_rows"
    row = connection.execute(text(statement), {"most": COUNTED, **parameters}).one()
    return Count(row.found, row.first_id)


def waiting_count(connection: Connection) -> Count:
    """Return how many scenarios wait, due or not."""
    return _some(
        connection, "SELECT id FROM scenarios WHERE status = 'init_startup' ORDER BY id", "min(id)"
    )


def held_count(connection: Connection) -> Count:
    """Return how many scenarios workers hold."""
    return _some(connection, "SELECT id FROM scenarios WHERE worker_id IS NOT NULL", "min(id)")


def left_behind(connection: Connection, *, patience: timedelta) -> Count:
    """Count the scenarios whose worker has no row, or a lease that ended over `patience` ago."""
    return _some(
        connection,
        "SELECT s.id FROM scenarios s LEFT JOIN workers w ON w.id = s.worker_id"
        " WHERE s.worker_id IS NOT NULL AND (w.id IS NULL OR w.lease_until < now() - :patience)",
        "min(id)",
        patience=patience,
    )


@dataclass(frozen=True, slots=True)
class OverdueAnnouncement:
    """The announcement that has been due for longest, and for how long."""

    scenario_id: int
    age: timedelta


def oldest_announcement(connection: Connection) -> OverdueAnnouncement | None:
    """Return the announcement that has been due for longest, None if no announcement is due."""
    row = connection.execute(
        text(
            "SELECT id, now() - announce_at AS age FROM scenarios WHERE announce_at <= now()"
            " ORDER BY announce_at LIMIT 1"
        )
    ).one_or_none()
    return None if row is None else OverdueAnnouncement(row.id, row.age)


def identity(connection: Connection) -> tuple[object, ...]:
    """Return what tells this database of this server from all others."""
    query = (
        "SELECT pg_postmaster_start_time(), oid FROM pg_database WHERE datname = current_database()"
    )
    return tuple(connection.execute(text(query)).one())


@dataclass(frozen=True, slots=True)
class OrchestratorSeen:
    """An orchestrator that is connected: its name, and the time since its last statement.

    The time is None where this role may not see it.
    """

    name: str
    silent_for: timedelta | None


def orchestrators(connection: Connection) -> list[OrchestratorSeen]:
    """Return the orchestrators that are connected to this database, the most silent one first.

    Each asks for ended leases twice a second, so the server itself keeps their heartbeats. A
    process that is frozen keeps its connections and says nothing.
    """
    found = connection.execute(
        text(
            "SELECT application_name AS name, clock_timestamp() - max(state_change) AS silent_for"
            " FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'orchestrator%' GROUP BY 1 ORDER BY 2 DESC"
        )
    )
    return [OrchestratorSeen(row.name, row.silent_for) for row in found]


@dataclass(frozen=True, slots=True)
class SilentWorker:
    """A worker whose heartbeat is late, and for how long."""

    worker_id: UUID
    name: str
    silent_for: timedelta


def late_heartbeats(connection: Connection, *, patience: timedelta) -> list[SilentWorker]:
    """Return workers with a lease but without a heartbeat for `patience`, the longest first."""
    found = connection.execute(
        text(
            "SELECT id, name, now() - seen_at AS silent_for FROM workers WHERE lease_until > now()"
            " AND seen_at < now() - :patience ORDER BY seen_at LIMIT :most"
        ),
        {"patience": patience, "most": COUNTED},
    )
    return [SilentWorker(row.id, row.name, row.silent_for) for row in found]
