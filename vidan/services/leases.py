"""Who works on what: claims, releases, expiry.

A lease decides who works, an epoch fences the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain import HELD, RUNNING, Status
from vidan.services.moves import LET_GO, Moved, move, status_literal

LEASE_SECONDS = 15.0
"""How long a worker's lease lasts unless it is renewed."""

RENEW_SECONDS = 5.0
"""How often a worker renews its lease."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What every write of a running scenario names: who claimed it, and under which epoch."""

    scenario_id: int
    epoch: int
    worker_id: UUID


@dataclass(frozen=True, slots=True)
class Claimed:
    """A scenario that was claimed: all that a run needs to start or to go on."""

    fence: Fence
    task: str
    source: str | None
    needs_source: bool
    params: dict[str, Any]
    checkpoint: int
    checkpoint_pts: int | None
    state: dict[str, Any]
    label_names: tuple[str, ...]
    frames_total: int | None
    frames_done: int
    crashes: int
    week: date


@dataclass(frozen=True, slots=True)
class Claimant:
    """What a worker can run."""

    worker_id: UUID
    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    source: str | None = None
    suspects: bool = False  # a one-slot process: it may take scenarios that may have killed others
    only_suspects: bool = False  # the quarantine child


def sql_list(statuses: Collection[Status]) -> str:
    """Return statuses as the inside of an SQL IN (…)."""
    return ", ".join(f"'{status}'" for status in sorted(statuses))


_CLAIM_ROWS = """
    SELECT due.* FROM unnest(CAST(:queues AS text[])) AS q (queue)
    CROSS JOIN LATERAL (
        SELECT s.id, s.status, s.priority, s.not_before FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = q.queue AND s.not_before <= now()
          AND s.task = ANY(CAST(:tasks AS text[])) AND s.id <> ALL(CAST(:skip AS bigint[]))
          AND {can_run}
        ORDER BY s.priority DESC, s.not_before
        LIMIT :free FOR NO KEY UPDATE SKIP LOCKED
    ) due
    WHERE EXISTS (SELECT 1 FROM workers w WHERE w.id = :worker AND w.lease_until > now()
                  AND w.desired_state = 'running')
    ORDER BY due.priority DESC, due.not_before LIMIT :free
"""


def claim(
    connection: Connection,
    claimant: Claimant,
    free: int,
    *,
    skip: Collection[int] = (),
    without_source: bool = False,
) -> list[Claimed]:
    """Claim up to `free` due scenarios for a worker: compare-and-set, epoch + 1.

    `skip` are ids that the worker leaves to others for now; `without_source` takes only scenarios
    of tasks that need no source. Nothing is claimed once the worker's own lease has ended.
    """
    moved = move(
        connection,
        rows=_CLAIM_ROWS.format(can_run=" AND ".join(_can_run(claimant, without_source))),
        to=status_literal(Status.INIT_STARTUP_PROCESSING),
        reason="CAST('claimed' AS text)",
        actor=claimant.name,
        assign=(
            "epoch = s.epoch + 1",
            "worker_id = :worker",
            "announce_at = NULL",
            "source_bound = s.source_bound OR (s.needs_source AND s.source IS NULL)",
            "source = CASE WHEN s.needs_source AND s.source IS NULL THEN CAST(:source AS text)"
            " ELSE s.source END",
        ),
        returning=(
            "s.epoch, s.task, s.source, s.needs_source, s.params, s.checkpoint, s.checkpoint_pts,"
            " s.state, s.label_names, s.frames_total, s.frames_done, s.crashes, s.week,"
            " s.priority, s.not_before",
        ),
        parameters={
            "worker": claimant.worker_id,
            "queues": list(claimant.queues),
            "tasks": list(claimant.tasks),
            "source": claimant.source,
            "skip": list(skip),
            "free": free,
        },
    )
    moved.sort(key=lambda taken: (-taken.row["priority"], taken.row["not_before"], taken.id))
    return [_claimed(taken, claimant.worker_id) for taken in moved]


def _can_run(claimant: Claimant, without_source: bool) -> list[str]:
    conditions = []
    if without_source:
        conditions.append("NOT s.needs_source")
    elif claimant.source is None:
        conditions.append("(NOT s.needs_source OR (s.source IS NOT NULL AND NOT s.source_bound))")
    else:
        conditions.append("(NOT s.needs_source OR s.source IS NULL OR s.source = :source)")
    if claimant.only_suspects:
        conditions.append("s.crashes > 1")
    elif not claimant.suspects:
        conditions.append("s.crashes <= 1")
    return conditions


def _claimed(moved: Moved, worker_id: UUID) -> Claimed:
    row = moved.row
    return Claimed(
        fence=Fence(moved.id, row["epoch"], worker_id),
        task=row["task"],
        source=row["source"] if row["needs_source"] else None,
        needs_source=row["needs_source"],
        params=row["params"],
        checkpoint=row["checkpoint"],
        checkpoint_pts=row["checkpoint_pts"],
        state=row["state"],
        label_names=tuple(row["label_names"]),
        frames_total=row["frames_total"],
        frames_done=row["frames_done"],
        crashes=row["crashes"],
        week=row["week"],
    )


def suspects_due(connection: Connection, queues: Sequence[str]) -> bool:
    """Tell whether a scenario that has killed more than one process waits to be tried alone."""
    found = connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM scenarios WHERE status = 'init_startup' AND crashes > 1"
            " AND queue = ANY(CAST(:queues AS text[])) AND not_before <= now())"
        ),
        {"queues": list(queues)},
    )
    return bool(found.scalar())


# mine: the rows of these fences that still belong to them, locked in the order of their ids
MINE = """
    SELECT s.id, s.status, s.crashes, s.max_crashes, s.attempts, s.max_attempts, f.*
    FROM scenarios s JOIN (
        SELECT * FROM jsonb_to_recordset(CAST(:fences AS jsonb)) AS f
        (scenario_id bigint, fence_epoch bigint, fence_worker uuid{columns})
    ) f ON s.id = f.scenario_id AND s.epoch = f.fence_epoch AND s.worker_id = f.fence_worker
    WHERE s.status IN ({statuses})
    ORDER BY s.id FOR NO KEY UPDATE OF s
"""


def fence_rows(fences: Sequence[Fence], *extra: dict[str, Any]) -> str:
    """Return fences (each with its own extra columns) as the JSON that MINE reads."""
    columns = extra or tuple({} for _ in fences)
    return json.dumps(
        [
            {
                "scenario_id": fence.scenario_id,
                "fence_epoch": fence.epoch,
                "fence_worker": str(fence.worker_id),
                **more,
            }
            for fence, more in zip(fences, columns, strict=True)
        ]
    )


def hand_over(
    connection: Connection, fences: Sequence[Fence], *, reason: str, actor: str
) -> set[int]:
    """Put scenarios back for others, no budget spent; those asked to stop become `inactive`.

    Returns the ids that were still the worker's.
    """
    if not fences:
        return set()
    moved = move(
        connection,
        rows=MINE.format(columns="", statuses=sql_list(HELD)),
        to=_BACK,
        reason="CAST(:reason AS text)",
        actor=actor,
        assign=(*LET_GO, "not_before = now()", *_ANNOUNCE, *_ENDS),
        parameters={"fences": fence_rows(fences), "reason": reason},
    )
    return {put_back.id for put_back in moved}


_BACK = (
    f"CASE WHEN r.status IN ({sql_list(RUNNING)}) THEN CAST('init_startup' AS text)"
    " ELSE CAST('inactive' AS text) END"
)
_ANNOUNCE = ("announce_at = CASE WHEN r.to_status = 'init_startup' THEN now() END",)
_ENDS = ("ended_at = CASE WHEN r.to_status = 'init_startup' THEN NULL ELSE now() END",)

BACK_OFF = "least(300, 2 ^ least({count}, 9)) * (0.5 + random() / 2)"
"""SQL: seconds to wait before a scenario that failed `count` times is tried again, with jitter."""

_ENDED_LEASES = """
    SELECT s.id, s.status, s.crashes, s.max_crashes,
           s.status IN ('init_startup_processing', 'active') AND (
               s.id = ANY(CAST(:executing AS bigint[])) OR coalesce(
               s.status = 'active' AND isfinite(w.lease_until)
               AND w.lease_until - make_interval(secs => :lease)
                   >= CAST(:connected_since AS timestamptz), false)) AS died,
           CASE WHEN s.crashes = 0 THEN now() ELSE now() + make_interval(secs => {back_off}) END
               AS retry_at
    FROM scenarios s LEFT JOIN workers w ON w.id = s.worker_id
    WHERE s.worker_id IS NOT NULL AND (w.id IS NULL OR w.lease_until <= now())
      AND (CAST(:worker AS uuid) IS NULL OR s.worker_id = :worker)
    ORDER BY s.id LIMIT 500 FOR NO KEY UPDATE OF s SKIP LOCKED
"""


def expire(
    connection: Connection,
    *,
    actor: str,
    connected_since: datetime | None = None,
    worker_id: UUID | None = None,
    executing: Collection[int] = (),
) -> list[Moved]:
    """Release every held scenario whose worker's lease has ended or whose worker is gone.

    The sessions of such workers are ended first, so that a stopped client in the middle of COPY
    frees its rows; a row that is still locked is left to the next round. A death is charged to
    the rows in `executing` (by the supervisor that reaped the process) or, if the caller has been
    connected to the database since `connected_since` (its clock) and so through the whole lease,
    to the rows that are `active`. `worker_id` narrows it to one worker. Returns what was released.
    """
    _end_sessions(connection)
    spent = "r.died AND r.crashes >= r.max_crashes"
    return move(
        connection,
        rows=_ENDED_LEASES.format(back_off=BACK_OFF.format(count="s.crashes")),
        to=f"CASE WHEN {spent} THEN CAST('failed' AS text) ELSE {_BACK} END",
        reason="CASE WHEN r.died THEN 'the worker died' ELSE 'the lease ended' END",
        actor=actor,
        assign=(
            *LET_GO,
            "crashes = s.crashes + CASE WHEN r.died THEN 1 ELSE 0 END",
            f"error = CASE WHEN {spent} THEN 'it ended its worker process ' || (r.crashes + 1)"
            " || ' times' ELSE s.error END",
            "not_before = CASE WHEN r.died THEN r.retry_at ELSE now() END",
            "announce_at = CASE WHEN r.to_status <> 'init_startup' THEN NULL"
            " WHEN r.died THEN r.retry_at ELSE now() END",
            *_ENDS,
        ),
        returning=("r.died",),
        parameters={
            "executing": list(executing),
            "connected_since": connected_since,
            "lease": LEASE_SECONDS,
            "worker": worker_id,
        },
    )


def _end_sessions(connection: Connection) -> None:
    """End the database sessions of workers whose lease has ended, and mark such workers gone."""
    connection.execute(
        text(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN workers w"
            " ON a.application_name = CAST(w.id AS text)"
            " WHERE w.lease_until <= now() AND a.pid <> pg_backend_pid()"
            " AND a.datname = current_database()"
            # those of another role can't be ended: it would fail the whole round
            " AND (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))"
            " AND (w.state <> 'gone'"
            " OR EXISTS (SELECT 1 FROM scenarios s WHERE s.worker_id = w.id))"
        )
    ).all()
    connection.execute(
        text(
            "UPDATE workers SET state = 'gone', fps = 0 WHERE id IN (SELECT id FROM workers"
            " WHERE lease_until <= now() AND state <> 'gone' ORDER BY id FOR UPDATE SKIP LOCKED)"
        )
    )


def release_worker(
    connection: Connection, worker_id: UUID, *, actor: str, executing: Collection[int] = ()
) -> bool:
    """Give up the lease of a process that was reaped, and release what it held.

    `executing` are the scenarios whose code it ran when it died: they are charged. Returns whether
    nothing is left; a row that a dying session still locks takes another call.
    """
    connection.execute(
        text("UPDATE workers SET lease_until = '-infinity' WHERE id = :worker"),
        {"worker": worker_id},
    )
    expire(connection, actor=actor, worker_id=worker_id, executing=executing)
    return not held(connection, worker_id)


@dataclass(frozen=True, slots=True)
class Held:
    """A row that a worker holds."""

    scenario_id: int
    epoch: int
    status: Status


def held(connection: Connection, worker_id: UUID) -> list[Held]:
    """Return the scenarios that a worker holds."""
    found = connection.execute(
        text("SELECT id, epoch, status FROM scenarios WHERE worker_id = :worker ORDER BY id"),
        {"worker": worker_id},
    )
    return [Held(row.id, row.epoch, Status(row.status)) for row in found]
