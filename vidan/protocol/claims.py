"""Claims: a worker takes due scenarios that it can run.

The lease decides which worker works on a scenario; the epoch refuses the writes of all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.db.reading import Unreadable
from vidan.domain.status import Status
from vidan.protocol import caps
from vidan.protocol.changes import Moved, status_literal
from vidan.protocol.definitions import UNCHECKED
from vidan.protocol.fences import Fence
from vidan.protocol.transitions import move


class Claimed(NamedTuple):
    """A claimed scenario: all that a run needs to start or to resume.

    The time limits are seconds of this run; None leaves the limit to the task.
    """

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
    attempts: int = 0
    unreadable: str | None = None
    """Why it can't run: its row holds a value that can't be read."""
    restart: tuple[int, int] | None = None
    """Where a resume that can't seek begins to decode: a packet, and the number of its frame."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A worker that claims, and which scenarios it can run.

    `definitions` are for each task those whose scenarios it takes; a task that is not among them
    stands for scenarios that no definition has checked.
    """

    worker_id: UUID
    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    source: str | None = None
    suspects: bool = False  # a one-slot process also takes scenarios that may have killed others
    only_suspects: bool = False  # the quarantine child takes nothing else
    capped: Collection[str] = ()  # its tasks that had a concurrency or a rate limit lately
    definitions: Mapping[str, Collection[str]] = field(default_factory=dict)
    heeds_caps: bool = True  # False in tests of an app: there is no cluster

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of task and definition whose scenarios it takes."""
        return [
            (task, definition)
            for task in self.tasks
            for definition in self.definitions.get(task, (UNCHECKED,))
        ]


# One index scan for each queue, task and definition, ended by its LIMIT: neither the rows of tasks
# and definitions that this worker lacks nor the rows of a task without room are read.
_OF_ONE_PAIR = """
    unnest(CAST(:queues AS text[])) AS q (queue)
    CROSS JOIN {tasks} CROSS JOIN LATERAL (
        SELECT s.id, s.status, s.needs_source, s.priority, s.not_before, s.task FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = q.queue AND s.task = t.task
          AND s.definition = t.definition AND s.not_before <= now()
          AND s.id <> ALL(CAST(:skip AS bigint[])) AND {can_run}
        ORDER BY s.priority DESC, s.not_before
        LIMIT {each} FOR NO KEY UPDATE SKIP LOCKED
    ) due
    WHERE EXISTS (SELECT 1 FROM workers w WHERE w.id = :worker AND w.lease_until > now()
                  AND w.desired_state = 'running')
"""

_DUE = """
    SELECT due.* FROM {pairs}
    ORDER BY due.priority DESC, due.not_before LIMIT {limit}
"""

# Whether a task is capped is decided by its row, whatever the worker has read of it before.
_UNCAPPED = "c.concurrency IS NULL AND c.rate_limit IS NULL"

_TASKS = f"""(
    SELECT p.task, p.definition
    FROM unnest(CAST(:tasks AS text[]), CAST(:definitions AS text[])) AS p (task, definition)
    LEFT JOIN tasks c ON c.name = p.task WHERE {_UNCAPPED}
) AS t"""

# The room of a task is shared by all queues.
_DUE_IN_ROOMS = """
    SELECT id, status, needs_source, priority, not_before, task FROM (
        SELECT due.*, t.room, row_number() OVER (
            PARTITION BY due.task ORDER BY due.priority DESC, due.not_before
        ) AS place
        FROM {pairs}
    ) one WHERE place <= room
    ORDER BY priority DESC, not_before LIMIT {limit}
"""

# `counted`: its caps were read under the lock of its row
_ROOMS = f"""(
    SELECT p.task, p.definition, p.room{{less}}
    FROM unnest(CAST(:tasks AS text[]), CAST(:definitions AS text[]), CAST(:rooms AS integer[]),
                CAST(:counted AS boolean[])) AS p (task, definition, room, counted)
    LEFT JOIN tasks c ON c.name = p.task WHERE p.counted OR ({_UNCAPPED})
) AS t"""
_ALL_ROOMS = _ROOMS.format(less="")
_ROOMS_LEFT = _ROOMS.format(
    less=" - (SELECT count(*) FROM due_now d WHERE d.task = p.task) AS room"
)

# The scenarios for the free slots are chosen first; those claimed ahead, among the rest.
_DUE_AND_AHEAD = """
    WITH due_now AS ({now}), due_ahead AS ({ahead})
    SELECT * FROM due_now UNION ALL SELECT * FROM due_ahead
"""

# A scenario without a source has nothing to open, so its claim passes through
# `init_startup_processing` and makes it `active` at once.
_CLAIMED = status_literal(Status.INIT_STARTUP_PROCESSING)
_TO = f"CASE WHEN r.needs_source THEN {_CLAIMED} ELSE 'active' END"
_VIA = f"CASE WHEN NOT r.needs_source THEN {_CLAIMED} END"
_ASSIGN = (
    "started_at = CASE WHEN s.needs_source THEN s.started_at"
    " ELSE coalesce(s.started_at, now()) END",
    "epoch = s.epoch + 1",
    "worker_id = :worker",
    "announce_at = NULL",
    "source_bound = s.source_bound OR (s.needs_source AND s.source IS NULL)",
    "source = CASE WHEN s.needs_source AND s.source IS NULL THEN CAST(:source AS text)"
    " ELSE s.source END",
)
_RETURNING = (
    "s.epoch, s.task, s.source, s.needs_source, s.params, s.checkpoint, s.checkpoint_pts,"
    " s.restart_packet, s.restart_frame,"
    " s.state, s.label_names, s.crashes,"
    " s.attempts, s.time_limit, s.soft_time_limit, s.priority, s.not_before",
)


def claim(
    connection: Connection,
    claimant: Claimant,
    free: int,
    *,
    ahead: int = 0,
    skip: Collection[int] = (),
) -> list[Claimed]:
    """Claim up to `free` due scenarios for a worker: compare-and-set, epoch + 1.

    `ahead` more scenarios are claimed to wait for a slot: only scenarios of tasks that need no
    source, and no suspects, because a suspect is tried alone. `skip` are ids that the worker leaves
    to other workers for now. Returns them in the order in which they are to run. Nothing is claimed
    once the worker's own lease has ended.

    Scenarios of tasks without a source become `active` at once, because most of them are short. Of
    a capped task no more scenarios are claimed than its concurrency and its rate leave room for.
    """
    pairs, rooms = claimant.pairs(), {}
    if claimant.capped:
        rooms = caps.rooms(connection, list(claimant.capped), claimant.queues)
        pairs = [one for one in pairs if one[0] not in claimant.capped or one[0] in rooms]
    if not pairs:
        return []
    moved = move(
        connection,
        rows=claim_rows(claimant, free, ahead, in_rooms=bool(rooms) or not claimant.heeds_caps),
        to=_TO,
        via=_VIA,
        reason="CAST('claimed' AS text)",
        actor=claimant.name,
        assign=_ASSIGN,
        returning=_RETURNING,
        parameters={
            "worker": claimant.worker_id,
            "queues": list(claimant.queues),
            **_columns(claimant, pairs, rooms, free + ahead),
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


def _columns(
    claimant: Claimant,
    pairs: Sequence[tuple[str, str]],
    rooms: Mapping[str, caps.Room],
    most: int,
) -> dict[str, list[Any]]:
    """Return the pairs of task and definition, with the room of each, as the claim takes them."""
    return {
        "tasks": [task for task, _ in pairs],
        "definitions": [definition for _, definition in pairs],
        "rooms": [rooms[task].starts if task in rooms else most for task, _ in pairs],
        "counted": [task in rooms or not claimant.heeds_caps for task, _ in pairs],
    }


def suspects_due(connection: Connection, workers: Collection[UUID], *, within: float = 0.0) -> bool:
    """Tell whether a suspect, which has killed more than one process, waits to be tried alone.

    Only scenarios count that are due within `within` seconds and that one of these workers could
    run if it had one slot.
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


def claim_rows(claimant: Claimant, free: int, ahead: int, *, in_rooms: bool) -> str:
    """Return the SQL of the rows that a claim takes: up to `free` rows, then `ahead` more.

    Its parameters are queues, the pairs of task and definition, skip, worker, source, free, ahead,
    and with `in_rooms` the room of each pair's task.
    """
    if ahead <= 0:
        return _due(_can_run(claimant, without_source=False), ":free", in_rooms)
    conditions = _can_run(claimant, without_source=True)
    if free <= 0:
        return _due(conditions, ":ahead", in_rooms)
    now = _due(_can_run(claimant, without_source=False), ":free", in_rooms)
    conditions.append("s.id NOT IN (SELECT id FROM due_now)")
    further = _due(conditions, ":ahead", in_rooms, rooms=_ROOMS_LEFT)
    return _DUE_AND_AHEAD.format(now=now, ahead=further)


def _due(conditions: Sequence[str], limit: str, in_rooms: bool, rooms: str = _ALL_ROOMS) -> str:
    pairs = _OF_ONE_PAIR.format(
        tasks=rooms if in_rooms else _TASKS,
        can_run=" AND ".join(conditions),
        each=f"least({limit}, t.room)" if in_rooms else limit,
    )
    return (_DUE_IN_ROOMS if in_rooms else _DUE).format(pairs=pairs, limit=limit)


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
    if without_source or not (claimant.suspects or claimant.only_suspects):
        conditions.append("s.crashes <= 1")
    return conditions


def _claimed(moved: Moved, worker_id: UUID) -> Claimed:
    row = moved.row
    unreadable = None
    for name, value in (("params", row.params), ("state", row.state)):
        if isinstance(value, Unreadable):
            unreadable = f"its {name} can't be read: {value.reason}"
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
        unreadable=unreadable,
        restart=None if row.restart_packet is None else (row.restart_packet, row.restart_frame),
    )
