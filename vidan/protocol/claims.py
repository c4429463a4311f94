"""Who works on what: claims, releases, expiry.

A lease decides who works, an epoch fences the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain import HELD, Status
from vidan.protocol import caps, due
from vidan.protocol.transitions import ENDS, LET_GO, PUT_BACK, Moved, move, sql_list, status_literal

LEASE_SECONDS = 15.0
"""How long a worker's lease lasts unless it is renewed."""

RENEW_SECONDS = 5.0
"""How often a worker renews its lease."""


class Fence(NamedTuple):
    """What every write of a running scenario names: who claimed it, and under which epoch."""

    scenario_id: int
    epoch: int
    worker_id: UUID


class Claimed(NamedTuple):
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
    crashes: int
    time_limit: float | None = None
    soft_time_limit: float | None = None
    """Seconds of this run; None: the task's own."""
    attempts: int = 0


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
    capped: tuple[str, ...] = ()  # those of its tasks that have a concurrency or a rate limit


_CLAIMED = status_literal(Status.INIT_STARTUP_PROCESSING)


def claim(
    connection: Connection,
    claimant: Claimant,
    free: int,
    *,
    ahead: int = 0,
    skip: Collection[int] = (),
) -> list[Claimed]:
    """Claim up to `free` due scenarios for a worker: compare-and-set, epoch + 1.

    `ahead` more are claimed to wait for their turn: only scenarios of tasks that need no source,
    and no suspects, which are tried alone, one at a time. `skip` are ids that the worker leaves to
    others for now. Returned in the order of taking. Nothing is claimed once the worker's own lease
    has ended.

    Those of tasks without a source have nothing to open, and are `active` at once: many are short.
    Of a capped task no more are claimed than its concurrency and its rate leave room for.
    """
    tasks, rooms = claimant.tasks, {}
    if claimant.capped:
        rooms = caps.rooms(connection, claimant.capped, claimant.queues)
        tasks = tuple(one for one in tasks if one not in claimant.capped or one in rooms)
        if not tasks:
            return []
    moved = move(
        connection,
        rows=due.claim_rows(claimant, free, ahead, in_rooms=bool(rooms)),
        to=f"CASE WHEN r.needs_source THEN {_CLAIMED} ELSE 'active' END",
        via=f"CASE WHEN NOT r.needs_source THEN {_CLAIMED} END",
        reason="CAST('claimed' AS text)",
        actor=claimant.name,
        assign=(
            "started_at = CASE WHEN s.needs_source THEN s.started_at"
            " ELSE coalesce(s.started_at, now()) END",
            "epoch = s.epoch + 1",
            "worker_id = :worker",
            "announce_at = NULL",
            "source_bound = s.source_bound OR (s.needs_source AND s.source IS NULL)",
            "source = CASE WHEN s.needs_source AND s.source IS NULL THEN CAST(:source AS text)"
            " ELSE s.source END",
        ),
        returning=(
            "s.epoch, s.task, s.source, s.needs_source, s.params, s.checkpoint, s.checkpoint_pts,"
            " s.state, s.label_names, s.crashes,"
            " s.attempts, s.time_limit, s.soft_time_limit, s.priority, s.not_before",
        ),
        parameters={
            "worker": claimant.worker_id,
            "queues": list(claimant.queues),
            "tasks": list(tasks),
            "rooms": [rooms[one].starts if one in rooms else free + ahead for one in tasks],
            "source": claimant.source,
            "skip": list(skip),
            "free": free,
            "ahead": ahead,
        },
    )
    if rooms:
        caps.spend(connection, rooms, (taken.row.task for taken in moved))
    moved.sort(key=lambda taken: (-taken.row.priority, taken.row.not_before, taken.id))
    return [_claimed(taken, claimant.worker_id) for taken in moved]


def _claimed(moved: Moved, worker_id: UUID) -> Claimed:
    row = moved.row
    return Claimed(
        fence=Fence(moved.id, row.epoch, worker_id),
        task=row.task,
        source=row.source if row.needs_source else None,
        needs_source=row.needs_source,
        params=row.params,
        checkpoint=row.checkpoint,
        checkpoint_pts=row.checkpoint_pts,
        state=row.state,
        label_names=tuple(row.label_names),
        crashes=row.crashes,
        time_limit=row.time_limit,
        soft_time_limit=row.soft_time_limit,
        attempts=row.attempts,
    )


def suspects_due(connection: Connection, workers: Collection[UUID], *, within: float = 0.0) -> bool:
    """Tell whether a scenario that has killed more than one process waits to be tried alone.

    Only those count that one of these workers could run, were it of one slot; `within` so many
    seconds they are due.
    """
    found = connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM scenarios s JOIN workers w ON w.id = ANY(:workers)"
            " AND w.desired_state = 'running' AND s.queue = ANY(w.queues) AND s.task = ANY(w.tasks)"
            " WHERE s.status = 'init_startup' AND s.crashes > 1"
            " AND s.not_before <= now() + make_interval(secs => :within) AND (NOT s.needs_source"
            " OR CASE WHEN w.source IS NULL THEN s.source IS NOT NULL AND NOT s.source_bound"
            " ELSE s.source IS NULL OR s.source = w.source END))"
        ),
        {"workers": list(workers), "within": within},
    )
    return bool(found.scalar())


# mine: the rows of these fences that still belong to them, locked in the order of their ids. Each
# is looked up by its id: planned as a join, all rows of a status were read, dead ones too; with an
# equality of workers, after statistics of when nobody held any, all that the worker holds for each
MINE = """
    SELECT s.*, f.* FROM (
        SELECT * FROM jsonb_to_recordset(CAST(:fences AS jsonb)) AS r
        (scenario_id bigint, fence_epoch bigint, fence_worker uuid{columns})
        ORDER BY scenario_id
    ) f CROSS JOIN LATERAL (
        SELECT s.id, s.status, s.crashes, s.max_crashes, s.attempts, s.max_attempts
        FROM scenarios s
        WHERE s.id = f.scenario_id AND s.epoch = f.fence_epoch
          AND s.worker_id IS NOT DISTINCT FROM f.fence_worker
          AND s.status IN ({statuses})
        FOR NO KEY UPDATE
    ) s
"""


def fence_rows(fences: Sequence[Fence], *extra: str) -> str:
    """Return fences as the JSON that MINE reads; `extra` are each one's own members, as JSON."""
    members = [f", {more}" for more in extra] or [""] * len(fences)
    names = {fence.worker_id: str(fence.worker_id) for fence in fences}  # mostly one
    rows = (
        f'{{"scenario_id": {fence.scenario_id}, "fence_epoch": {fence.epoch},'
        f' "fence_worker": "{names[fence.worker_id]}"{more}}}'
        for fence, more in zip(fences, members, strict=True)
    )
    return f"[{', '.join(rows)}]"


_DELAYED = "now() + make_interval(secs => CAST(:delay AS double precision))"


def hand_over(
    connection: Connection,
    fences: Sequence[Fence],
    *,
    reason: str,
    actor: str,
    delay: float = 0.0,
) -> set[int]:
    """Put scenarios back for others, no budget spent; those asked to stop become `inactive`.

    They are due, and announced, after `delay` seconds. Returns the ids that were still the
    worker's.
    """
    if not fences:
        return set()
    moved = move(
        connection,
        rows=MINE.format(columns="", statuses=sql_list(HELD)),
        to=PUT_BACK,
        reason="CAST(:reason AS text)",
        actor=actor,
        assign=(
            *LET_GO,
            f"not_before = {_DELAYED}",
            f"announce_at = CASE WHEN r.to_status = 'init_startup' THEN {_DELAYED} END",
            *ENDS,
        ),
        parameters={"fences": fence_rows(fences), "reason": reason, "delay": delay},
    )
    return {put_back.id for put_back in moved}


@dataclass(frozen=True, slots=True)
class Held:
    """A row that a worker holds."""

    scenario_id: int
    epoch: int
    status: Status


def held(connection: Connection, worker_id: UUID) -> list[Held]:
    """Return the scenarios that a worker holds."""
    found = connection.execute(
        text("SELECT id, epoch, status FROM scenarios WHERE worker_id = :worker"),
        {"worker": worker_id},
    )
    # sorted here: a planner with old statistics would walk through all ids for it
    return [Held(row.id, row.epoch, Status(row.status)) for row in sorted(found)]
