"""A worker's registration, the heartbeat that renews its lease, and the scenarios that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain.status import DesiredState, Status
from vidan.domain.worker import LEASE_SECONDS

_RENEW = """
    UPDATE workers SET lease_until = now() + make_interval(secs => :lease), seen_at = now(),
           state = :state, fps = :fps, slots = coalesce(CAST(:slots AS integer), slots)
    WHERE id = :id AND lease_until > now() RETURNING desired_state, desired_slots
"""

# Two statements instead of a parameter that says whether to count: PostgreSQL would plan that
# statement again each time.
_BEAT = """
WITH renewed AS ({renewed})
SELECT desired_state, desired_slots,
       coalesce((SELECT jsonb_agg(jsonb_build_array(id, epoch, status))
                 FROM scenarios WHERE worker_id = :id), '[]') AS held, {live} AS live
FROM renewed
"""

_LIVE = "(SELECT count(*) FROM workers WHERE lease_until > now())"


@dataclass(frozen=True, slots=True)
class Held:
    """A scenario that a worker holds, under the epoch of its claim."""

    scenario_id: int
    epoch: int
    status: Status


def held(connection: Connection, worker_id: UUID) -> list[Held]:
    """Return the scenarios that a worker holds."""
    found = connection.execute(
        text("SELECT id, epoch, status FROM scenarios WHERE worker_id = :worker"),
        {"worker": worker_id},
    )
    # Sorted here: with ORDER BY, a planner with old statistics would read all ids in their order.
    return [Held(row.id, row.epoch, Status(row.status)) for row in sorted(found)]


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker process registers with; each registration has an id of its own.

    `versions` are the numbers of its apps' versions, the built-in one included.

    `replaces` is the registration that this one follows: an earlier one of the same process, or
    that of the process which this one replaces.
    """

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
    versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a worker is asked to do: be in `state`, and have `slots` slots.

    None for `slots` leaves the number with which the worker was started.
    """

    state: DesiredState
    slots: int | None


def register(connection: Connection, worker: Registration) -> Asked:
    """Insert a worker with a fresh lease. Returns what it is asked to do.

    It inherits what was asked of the registration that it replaces, so that a lease which ended
    does not undo a drain or a number of slots.
    """
    found = connection.execute(
        text(
            "INSERT INTO workers (id, name, host, pid, device, slots, queues, tasks, versions,"
            " source, quarantine, lease_until, desired_state, desired_slots)"
            " SELECT :id, :name, :host, :pid, :device, coalesce(f.desired_slots, :slots),"
            " :queues, :tasks, CAST(:versions AS bigint[]), :source, :quarantine,"
            " now() + make_interval(secs => :lease),"
            " coalesce(f.desired_state, 'running'), f.desired_slots"
            " FROM (SELECT) AS new LEFT JOIN workers f ON f.id = :replaces"
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
            "versions": list(worker.versions),
            "source": worker.source,
            "quarantine": worker.quarantine,
            "lease": LEASE_SECONDS,
            "replaces": worker.replaces,
        },
    )
    state, slots = found.one()
    return Asked(DesiredState(state), slots)


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat returns; `live` is the number of workers that hold a lease, if counted.

    `slots` is the number of slots that the worker is asked to have; None leaves the number with
    which it was started.
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
    """Renew a worker's lease, and read what it holds, in one statement.

    `count` also counts the living workers, which reads all their rows. Returns None once the lease
    has ended: then it can't be renewed.
    """
    found = connection.execute(
        text(_BEAT.format(renewed=_RENEW, live=_LIVE if count else "CAST(NULL AS bigint)")),
        {"id": worker_id, "lease": LEASE_SECONDS, "state": state, "fps": fps, "slots": slots},
    ).one_or_none()
    if found is None:
        return None
    # Sorted here: with ORDER BY, a planner with old statistics would read all ids in their order.
    rows = [
        Held(scenario_id, epoch, Status(status))
        for scenario_id, epoch, status in sorted(found.held)
    ]
    return Beat(DesiredState(found.desired_state), rows, found.live, found.desired_slots)


def sign_off(connection: Connection, worker_id: UUID) -> None:
    """End the lease of a worker that is leaving and holds no scenario."""
    connection.execute(
        text(
            "UPDATE workers SET lease_until = '-infinity', state = 'gone', fps = 0,"
            " seen_at = now() WHERE id = :id"
        ),
        {"id": worker_id},
    )
