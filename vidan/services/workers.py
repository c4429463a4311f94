"""Workers: registration, the heartbeat that renews a lease, and who is there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain import DesiredState, Status
from vidan.errors import NotAllowedError, NotFoundError
from vidan.protocol import storable
from vidan.protocol.claims import LEASE_SECONDS, Held


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker process as it introduces itself; each registration has an id of its own."""

    worker_id: UUID
    name: str
    host: str
    pid: int
    device: str
    slots: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    source: str | None = None
    quarantine: bool = False
    former: UUID | None = None
    """The registration that this one follows: of this process, or of the one that it replaces."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a worker; `slots`: how many it is to have, None: as it was started."""

    state: DesiredState
    slots: int | None


def register(connection: Connection, worker: Registration) -> Asked:
    """Enter a worker, with a fresh lease. Returns what is asked of it.

    That is what was asked under its former id: a lease that ended forgets no drain, and no number
    of slots.
    """
    found = connection.execute(
        text(
            "INSERT INTO workers (id, name, host, pid, device, slots, queues, tasks, source,"
            " quarantine, lease_until, desired_state, desired_slots)"
            " SELECT :id, :name, :host, :pid, :device, coalesce(f.desired_slots, :slots),"
            " :queues, :tasks, :source, :quarantine, now() + make_interval(secs => :lease),"
            " coalesce(f.desired_state, 'running'), f.desired_slots"
            " FROM (SELECT) AS new LEFT JOIN workers f ON f.id = :former"
            " RETURNING desired_state, desired_slots"
        ),
        {
            "id": worker.worker_id,
            "name": worker.name,
            "host": worker.host,
            "pid": worker.pid,
            "device": worker.device,
            "slots": worker.slots,
            "queues": list(worker.queues),
            "tasks": list(worker.tasks),
            "source": worker.source,
            "quarantine": worker.quarantine,
            "lease": LEASE_SECONDS,
            "former": worker.former,
        },
    )
    state, slots = found.one()
    return Asked(DesiredState(state), slots)


_RENEW = """
    UPDATE workers SET lease_until = now() + make_interval(secs => :lease), seen_at = now(),
           state = :state, fps = :fps, slots = coalesce(CAST(:slots AS integer), slots)
    WHERE id = :id AND lease_until > now() RETURNING desired_state, desired_slots
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat brings back; `live` is how many workers hold a lease, if it was asked.

    `slots`: how many the worker is asked to have; None: as it was started.
    """

    desired: DesiredState
    held: list[Held]
    live: int | None
    slots: int | None = None


def beat(
    connection: Connection,
    worker_id: UUID,
    *,
    state: str,
    fps: float,
    count: bool,
    slots: int | None = None,
) -> Beat | None:
    """Renew a worker's lease, only while it has not ended, and read what it holds: one statement.

    `count`: how many workers are there, too, which reads them all. None once the lease has ended.
    """
    found = connection.execute(
        text(_BEAT.format(renewed=_RENEW, live=_LIVE if count else "CAST(NULL AS bigint)")),
        {"id": worker_id, "lease": LEASE_SECONDS, "state": state, "fps": fps, "slots": slots},
    ).one_or_none()
    if found is None:
        return None
    # sorted here: a planner with old statistics would walk through all ids for it
    rows = [
        Held(scenario_id, epoch, Status(status))
        for scenario_id, epoch, status in sorted(found.held)
    ]
    return Beat(DesiredState(found.desired_state), rows, found.live, found.desired_slots)


# two texts, not a parameter that says whether to count: its plan would be made each time
_BEAT = """
WITH renewed AS ({renewed})
SELECT desired_state, desired_slots,
       coalesce((SELECT jsonb_agg(jsonb_build_array(id, epoch, status))
                 FROM scenarios WHERE worker_id = :id), '[]') AS held, {live} AS live
FROM renewed
"""
_LIVE = "(SELECT count(*) FROM workers WHERE lease_until > now())"


def desired_state(connection: Connection, worker_id: UUID) -> DesiredState:
    """Return what is asked of a worker; of one that is not entered, that it runs."""
    found = connection.execute(
        text("SELECT desired_state FROM workers WHERE id = :id"), {"id": worker_id}
    ).scalar()
    return DesiredState(found or DesiredState.RUNNING)


def sign_off(connection: Connection, worker_id: UUID) -> None:
    """End a worker's lease: it is going and holds nothing any more."""
    connection.execute(
        text(
            "UPDATE workers SET lease_until = '-infinity', state = 'gone', fps = 0,"
            " seen_at = now() WHERE id = :id"
        ),
        {"id": worker_id},
    )


def by_task(connection: Connection) -> dict[str, list[str]]:
    """Return the names of the living workers that have each task and take it on."""
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
    """Delete workers that have been gone for `days` and hold nothing. Returns how many."""
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


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as it stands. `fps` is what it measured over its last seconds."""

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
            "source": self.source,
            "desired_state": str(self.desired_state),
            "desired_slots": self.desired_slots,
        }


_SELECT = """
SELECT w.id, w.name, w.host, w.pid, w.device, w.slots, w.queues, w.tasks, w.source,
       w.quarantine, w.desired_state, w.desired_slots,
       CASE WHEN w.lease_until <= now() THEN 'gone'
            WHEN w.desired_state <> 'running' THEN 'draining' ELSE w.state END AS state,
       w.lease_until > now() AS alive, w.fps, w.seen_at,
       ARRAY(SELECT s.id FROM scenarios s WHERE s.worker_id = w.id) AS scenarios
FROM workers w WHERE {condition} ORDER BY w.name, w.registered_at DESC
"""


def find(connection: Connection, *, alive_only: bool = True) -> list[WorkerRow]:
    """Return the workers, those that are gone only if asked for."""
    return _select(connection, "w.lease_until > now()" if alive_only else "true", {})


def get(connection: Connection, id_or_name: str) -> WorkerRow:
    """Return a worker by id or name, of several registrations of a name the newest one.

    Raises NotFoundError.
    """
    found = storable.is_text(id_or_name) and _select(
        connection, "CAST(w.id AS text) = :wanted OR w.name = :wanted", {"wanted": id_or_name}
    )
    if not found:
        raise NotFoundError(f"no worker {id_or_name!r}", hint="see `vidan workers list`")
    return max(found, key=lambda row: (row.alive, row.seen_at))


def living(connection: Connection, wanted: Collection[str]) -> list[WorkerRow]:
    """Return the living workers of these ids or names, of a name all of them.

    Raises NotFoundError, or NotAllowedError for a worker that is gone.
    """
    chosen = [one for one in find(connection) if one.name in wanted or str(one.id) in wanted]
    for missing in set(wanted) - {name for one in chosen for name in (one.name, str(one.id))}:
        gone = get(connection, missing)  # raises NotFoundError
        raise NotAllowedError(
            f"worker {missing} is gone since {gone.seen_at.isoformat(timespec='seconds')}",
            hint="what it held goes on elsewhere; see `vidan workers list`",
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
    """Ask workers to leave: `drained` or `stopped`. They learn of it with their next heartbeat.

    `wanted` are ids or names, of a name all living registrations; None means every living worker.
    A drained one may be stopped; the other way round nothing changes. Raises NotFoundError, or
    NotAllowedError for a worker that is gone.
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


def still_there(connection: Connection, ids: Collection[UUID]) -> list[WorkerRow]:
    """Return which of these workers' processes still hold a lease, under whatever id."""
    return _select(
        connection,
        "w.lease_until > now() AND (w.name, w.host, w.pid) IN (SELECT f.name, f.host, f.pid"
        " FROM workers f WHERE f.id = ANY(CAST(:ids AS uuid[])))",
        {"ids": list(ids)},
    )


def _select(connection: Connection, condition: str, parameters: dict[str, Any]) -> list[WorkerRow]:
    found = connection.execute(text(_SELECT.format(condition=condition)), parameters).mappings()
    return [
        WorkerRow(
            **{
                **row,
                **{name: tuple(row[name]) for name in ("queues", "tasks")},
                # not ordered by SQL: a planner with old statistics would walk through all ids
                "scenarios": tuple(sorted(row["scenarios"])),
                "desired_state": DesiredState(row["desired_state"]),
            }
        )
        for row in found
    ]
