"""A worker's registration, the heartbeat that renews its lease, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain.status import DesiredState, Status
from vidan.domain.worker import LEASE_SECONDS


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
    replaces: UUID | None = None
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
            "former": worker.replaces,
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


def sign_off(connection: Connection, worker_id: UUID) -> None:
    """End a worker's lease: it is going and holds nothing any more."""
    connection.execute(
        text(
            "UPDATE workers SET lease_until = '-infinity', state = 'gone', fps = 0,"
            " seen_at = now() WHERE id = :id"
        ),
        {"id": worker_id},
    )
