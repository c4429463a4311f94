"""What is due, and which of it a claim takes: the SQL that finds and locks the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    from vidan.protocol.claims import Claimant

# one index scan for each queue and task, ended by its limit: neither the rows of tasks that this
# worker lacks, nor those of a task that has no room, are read
_OF_ONE_PAIR = """
    unnest(CAST(:queues AS text[])) AS q (queue)
    CROSS JOIN {tasks} CROSS JOIN LATERAL (
        SELECT s.id, s.status, s.needs_source, s.priority, s.not_before, s.task FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = q.queue AND s.task = t.task
          AND s.not_before <= now() AND s.id <> ALL(CAST(:skip AS bigint[])) AND {can_run}
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
_TASKS = "unnest(CAST(:tasks AS text[])) AS t (task)"
# the room of a task is one over all queues
_DUE_IN_ROOMS = """
    SELECT id, status, needs_source, priority, not_before, task FROM (
        SELECT due.*, t.room, row_number() OVER (
            PARTITION BY due.task ORDER BY due.priority DESC, due.not_before
        ) AS place
        FROM {pairs}
    ) one WHERE place <= room
    ORDER BY priority DESC, not_before LIMIT {limit}
"""
_ROOMS = "unnest(CAST(:tasks AS text[]), CAST(:rooms AS integer[])) AS t (task, room)"
_ROOMS_LEFT = f"""(
    SELECT t.task, t.room - (SELECT count(*) FROM due_now d WHERE d.task = t.task) AS room
    FROM {_ROOMS}
) AS t"""
# those for the free slots first: what waits for its turn is chosen among the rest
_DUE_AND_AHEAD = """
    WITH due_now AS ({now}), due_ahead AS ({ahead})
    SELECT * FROM due_now UNION ALL SELECT * FROM due_ahead
"""


def any_due(connection: Connection, queues: Sequence[str], tasks: Sequence[str]) -> bool:
    """Tell whether a claim might find something: a sweep mostly finds nothing, and asks this first.

    The claim's own statement takes longer to plan than to run.
    """
    found = connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM unnest(CAST(:queues AS text[])) AS q (queue)"
            " CROSS JOIN unnest(CAST(:tasks AS text[])) AS t (task) CROSS JOIN LATERAL ("
            "SELECT 1 FROM scenarios s WHERE s.status = 'init_startup' AND s.queue = q.queue"
            " AND s.task = t.task AND s.not_before <= now() LIMIT 1) due)"
        ),
        {"queues": list(queues), "tasks": list(tasks)},
    )
    return bool(found.scalar())


def lacking(connection: Connection, queues: Sequence[str], tasks: Sequence[str]) -> set[str]:
    """Return the tasks of due scenarios that are not among `tasks`, looking at some of them."""
    found = connection.execute(
        text(
            "SELECT DISTINCT task FROM (SELECT task FROM scenarios WHERE status = 'init_startup'"
            " AND queue = ANY(CAST(:queues AS text[])) AND not_before <= now() LIMIT 1000) due"
            " WHERE task <> ALL(CAST(:tasks AS text[]))"
        ),
        {"queues": list(queues), "tasks": list(tasks)},
    )
    return set(found.scalars())


def claim_rows(claimant: Claimant, free: int, ahead: int, *, in_rooms: bool) -> str:
    """Return the SQL of the rows that a claim takes: `free` of all, then `ahead` more.

    Its parameters: queues, tasks, skip, worker, source, free, ahead, and with `in_rooms` the room
    of each task.
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


def _due(conditions: Sequence[str], limit: str, in_rooms: bool, rooms: str = _ROOMS) -> str:
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
