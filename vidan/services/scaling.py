"""How many slots a running worker is asked to have."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from vidan.domain.status import DesiredState
from vidan.domain.worker import MAX_SLOTS
from vidan.errors import NotAllowedError, UsageError
from vidan.services import workers
from vidan.services.workers import WorkerRow


@dataclass(frozen=True, slots=True)
class Scaled:
    """A worker that was asked to have so many slots; `changed` is False if it was already."""

    worker: WorkerRow
    changed: bool


def scale(connection: Connection, worker: str, slots: int) -> list[Scaled]:
    """Ask a worker, by id or name, to have so many slots; of a name all living registrations.

    It learns of it with its next heartbeat. Raises UsageError (not 1…64), NotFoundError, or
    NotAllowedError: it is gone, is leaving, or tries suspects.
    """
    if not 1 <= slots <= MAX_SLOTS:
        raise UsageError(f"a worker has 1 to {MAX_SLOTS} slots, not {slots}")
    chosen = workers.living(connection, [worker])
    able = [one for one in chosen if one.desired_state is DesiredState.RUNNING]
    if not able:
        raise NotAllowedError(
            f"worker {worker} is leaving", hint="start another one: `vidan worker --slots N`"
        )
    if not (able := [one for one in able if not one.quarantine]):
        raise NotAllowedError(
            f"worker {worker} tries suspects, one at a time",
            hint="it is there for a while only; scale one of the others in `vidan workers list`",
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
    return [Scaled(one, one.id in changed) for one in workers.find(connection) if one.id in asked]
