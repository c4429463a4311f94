"""Workers as their users see them: list them, ask them to leave, change their number of slots."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain.status import DesiredState
from vidan.domain.worker import MAX_SLOTS
from vidan.errors import NotAllowedError, NotFoundError, UsageError
from vidan.protocol import storable


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker's row. `fps` is the rate that it measured over its last seconds."""

    id: UUID
    name: str
    host: str
    pid: int
    device: str
    slots: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    source: str | None
    quarantine: bool
    state: str
    desired_state: DesiredState
    desired_slots: int | None
    alive: bool
    scenarios: tuple[int, ...]
    fps: float
    seen_at: datetime
    versions: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "id": str(self.id),
            "name": self.name,
            "host": self.host,
            "pid": self.pid,
            "device": self.device,
            "slots": self.slots,
            "state": self.state,
            "scenarios": list(self.scenarios),
            "fps": round(self.fps, 1),
            "seen_at": self.seen_at.isoformat(),
            "queues": list(self.queues),
            "tasks": list(self.tasks),
            "versions": list(self.versions),
            "source": self.source,
            "desired_state": str(self.desired_state),
            "desired_slots": self.desired_slots,
        }


_SELECT = """
SELECT w.id, w.name, w.host, w.pid, w.device, w.slots, w.queues, w.tasks, w.versions, w.source,
       w.quarantine, w.desired_state, w.desired_slots,
       CASE WHEN w.lease_until <= now() THEN 'gone'
            WHEN w.desired_state <> 'running' THEN 'draining' ELSE w.state END AS state,
       w.lease_until > now() AS alive, w.fps, w.seen_at,
       ARRAY(SELECT s.id FROM scenarios s WHERE s.worker_id = w.id) AS scenarios
FROM workers w WHERE {condition} ORDER BY w.name, w.registered_at DESC
"""


def find(connection: Connection, *, alive_only: bool = True) -> list[WorkerRow]:
    """Return the living workers, or all of them."""
    return _select(connection, "w.lease_until > now()" if alive_only else "true", {})


def get(connection: Connection, id_or_name: str) -> WorkerRow:
    """Return a worker by id or name: the newest one if several registrations have the name.

    Raises NotFoundError.
    """
    found = storable.is_text(id_or_name) and _select(
        connection, "CAST(w.id AS text) = :wanted OR w.name = :wanted", {"wanted": id_or_name}
    )
    if not found:
        raise NotFoundError(f"no worker {id_or_name!r}", hint="see `vidan workers list`")
    return max(found, key=lambda row: (row.alive, row.seen_at))


def living(connection: Connection, wanted: Collection[str]) -> list[WorkerRow]:
    """Return the living workers with these ids or names; a name means all its registrations.

    Raises NotFoundError, or NotAllowedError for a worker that is gone.
    """
    chosen = [one for one in find(connection) if one.name in wanted or str(one.id) in wanted]
    for missing in set(wanted) - {name for one in chosen for name in (one.name, str(one.id))}:
        gone = get(connection, missing)  # raises NotFoundError
        raise NotAllowedError(
            f"worker {missing} has been gone since {gone.seen_at.isoformat(timespec='seconds')}",
            hint="other workers resume its scenarios; see `vidan workers list`",
        )
    return chosen


@dataclass(frozen=True, slots=True)
class Retired:
    """A worker that was asked to leave; `changed` is False if it had been asked already."""

    worker: WorkerRow
    changed: bool


def retire(
    connection: Connection, wanted: Collection[str] | None, to: DesiredState
) -> list[Retired]:
    """Ask workers to leave: `drained` or `stopped`. Their next heartbeat returns the request.

    `wanted` are ids or names, a name means all its living registrations; None means every living
    worker. A drained worker may be stopped, but a stopped worker can't be drained. Raises
    NotFoundError, or NotAllowedError for a worker that is gone.
    """
    chosen = find(connection) if wanted is None else living(connection, wanted)
    changed = set(
        connection.execute(
            text(
                "UPDATE workers SET desired_state = :to WHERE id IN (SELECT id FROM workers"
                " WHERE id = ANY(CAST(:ids AS uuid[])) AND lease_until > now()"
                " AND (desired_state = 'running'"
                " OR (desired_state = 'drained' AND :to = 'stopped'))"
                " ORDER BY id FOR NO KEY UPDATE) RETURNING id"
            ),
            {"to": str(to), "ids": [one.id for one in chosen]},
        ).scalars()
    )
    ids = {one.id for one in chosen}
    after = _select(connection, "w.id = ANY(CAST(:ids AS uuid[]))", {"ids": list(ids)})
    return [Retired(one, one.id in changed) for one in after]


def living_in_process_of(connection: Connection, ids: Collection[UUID]) -> list[WorkerRow]:
    """Return the living workers in the processes of these workers, under whatever id now."""
    return _select(
        connection,
        "w.lease_until > now() AND (w.name, w.host, w.pid) IN (SELECT f.name, f.host, f.pid"
        " FROM workers f WHERE f.id = ANY(CAST(:ids AS uuid[])))",
        {"ids": list(ids)},
    )


@dataclass(frozen=True, slots=True)
class Scaled:
    """A worker that was asked to have a number of slots; `changed` is False if it was already."""

    worker: WorkerRow
    changed: bool


def scale(connection: Connection, worker: str, slots: int) -> list[Scaled]:
    """Ask a worker, by id or name, to have `slots` slots; a name means all its registrations.

    The worker's next heartbeat returns the request. Raises UsageError (not 1 to 64), NotFoundError,
    or NotAllowedError: the worker is gone, is leaving, or is in quarantine.
    """
    if not 1 <= slots <= MAX_SLOTS:
        raise UsageError(f"a worker has 1 to {MAX_SLOTS} slots, not {slots}")
    chosen = living(connection, [worker])
    able = [one for one in chosen if one.desired_state is DesiredState.RUNNING]
    if not able:
        raise NotAllowedError(
            f"worker {worker} is leaving", hint="start another one: `vidan worker --slots N`"
        )
    if not (able := [one for one in able if not one.quarantine]):
        raise NotAllowedError(
            f"worker {worker} is in quarantine: it runs suspects, one at a time",
            hint="it will end soon; scale one of the others in `vidan workers list`",
        )
    changed = [one.id for one in able if slots != (one.desired_slots or one.slots)]
    connection.execute(
        text(
            "UPDATE workers SET desired_slots = :slots WHERE id IN (SELECT id FROM workers"
            " WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE)"
        ),
        {"slots": slots, "ids": [one.id for one in able]},
    )
    asked = {one.id for one in able}
    return [Scaled(one, one.id in changed) for one in find(connection) if one.id in asked]


def desired_state(connection: Connection, worker_id: UUID) -> DesiredState:
    """Return the state that a worker is asked to be in: running, if it has no row."""
    found = connection.execute(
        text("SELECT desired_state FROM workers WHERE id = :id"), {"id": worker_id}
    ).scalar()
    return DesiredState(found or DesiredState.RUNNING)


def by_task(connection: Connection) -> dict[str, list[str]]:
    """Return the names of the living workers that execute each task, without leaving ones."""
    found = connection.execute(
        text(
            "SELECT t.name AS task, array_agg(w.name ORDER BY w.name) AS names"
            " FROM workers w CROSS JOIN LATERAL unnest(w.tasks) AS t (name)"
            " WHERE w.lease_until > now() AND w.desired_state = 'running' AND NOT w.quarantine"
            " GROUP BY t.name"
        )
    )
    return {row.task: list(row.names) for row in found}


def forget_gone(connection: Connection, *, days: int = 7) -> int:
    """Delete the rows of workers gone for `days` that hold no scenario. Returns their number."""
    return connection.execute(
        text(
            "DELETE FROM workers WHERE id IN (SELECT w.id FROM workers w"
            " WHERE w.lease_until <= now() AND w.state = 'gone'"
            " AND w.seen_at < now() - make_interval(days => :days)"
            " AND NOT EXISTS (SELECT 1 FROM scenarios s WHERE s.worker_id = w.id)"
            " ORDER BY w.id FOR UPDATE SKIP LOCKED)"
        ),
        {"days": days},
    ).rowcount


def _select(connection: Connection, condition: str, parameters: dict[str, Any]) -> list[WorkerRow]:
    found = connection.execute(text(_SELECT.format(condition=condition)), parameters).mappings()
    return [
        WorkerRow(
            **{
                **row,
                **{name: tuple(row[name]) for name in ("queues", "tasks", "versions")},
                # Sorted here: with ORDER BY, a planner with old statistics would read all ids.
                "scenarios": tuple(sorted(row["scenarios"])),
                "desired_state": DesiredState(row["desired_state"]),
            }
        )
        for row in found
    ]
