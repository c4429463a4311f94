"""Workers: registration, the heartbeat that renews a lease, and who is there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.errors import NotFoundError
from vidan.services import storable
from vidan.services.leases import LEASE_SECONDS


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


def register(connection: Connection, worker: Registration) -> None:
    """Enter a worker, with a fresh lease."""
    connection.execute(
        text(
            "INSERT INTO workers (id, name, host, pid, device, slots, queues, tasks, source,"
            " quarantine, lease_until) VALUES (:id, :name, :host, :pid, :device, :slots, :queues,"
            " :tasks, :source, :quarantine, now() + make_interval(secs => :lease))"
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
        },
    )


def renew(connection: Connection, worker_id: UUID, *, state: str, fps: float) -> bool:
    """Renew a worker's lease, only while it has not ended. Returns False once it has."""
    return bool(
        connection.execute(
            text(
                "UPDATE workers SET lease_until = now() + make_interval(secs => :lease),"
                " seen_at = now(), state = :state, fps = :fps"
                " WHERE id = :id AND lease_until > now()"
            ),
            {"id": worker_id, "lease": LEASE_SECONDS, "state": state, "fps": fps},
        ).rowcount
    )


def sign_off(connection: Connection, worker_id: UUID) -> None:
    """End a worker's lease: it is going and holds nothing any more."""
    connection.execute(
        text(
            "UPDATE workers SET lease_until = '-infinity', state = 'gone', fps = 0,"
            " seen_at = now() WHERE id = :id"
        ),
        {"id": worker_id},
    )


def live_count(connection: Connection) -> int:
    """Return how many workers hold a lease."""
    return int(
        connection.execute(
            text("SELECT count(*) FROM workers WHERE lease_until > now()")
        ).scalar_one()
    )


def forget_gone(connection: Connection, *, days: int = 7) -> int:
    """Delete workers that have been gone for `days` and hold nothing. Returns how many."""
    return connection.execute(
        text(
            "DELETE FROM workers w WHERE w.lease_until <= now() AND w.state = 'gone'"
            " AND w.seen_at < now() - make_interval(days => :days)"
            " AND NOT EXISTS (SELECT 1 FROM scenarios s WHERE s.worker_id = w.id)"
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
    state: str
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
        }


_SELECT = """
SELECT w.id, w.name, w.host, w.pid, w.device, w.slots, w.queues, w.tasks, w.source,
       CASE WHEN w.lease_until > now() THEN w.state ELSE 'gone' END AS state,
       w.lease_until > now() AS alive, w.fps, w.seen_at,
       ARRAY(SELECT s.id FROM scenarios s WHERE s.worker_id = w.id ORDER BY s.id) AS scenarios
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


def _select(connection: Connection, condition: str, parameters: dict[str, Any]) -> list[WorkerRow]:
    found = connection.execute(text(_SELECT.format(condition=condition)), parameters).mappings()
    return [
        WorkerRow(
            **{**row, **{name: tuple(row[name]) for name in ("queues", "tasks", "scenarios")}}
        )
        for row in found
    ]
