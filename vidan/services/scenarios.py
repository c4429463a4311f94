"""Scenarios as their users see them: one, a page of them, their history, their gaps.

What creates them stands in `protocol.creation`; its names are here too, for programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.domain.detection import Gap
from vidan.domain.status import Status
from vidan.errors import NotFoundError
from vidan.protocol import storable
from vidan.protocol.creation import Created, NewScenario, create, create_many

__all__ = [
    "Created",
    "NewScenario",
    "Scenario",
    "Transition",
    "create",
    "create_many",
    "failed_lately",
    "find",
    "gaps",
    "get",
    "history",
    "no_such_scenario",
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as it stands. `worker` is the name of the worker that holds it."""

    id: int
    name: str | None
    key: str | None
    labels: dict[str, str]
    task: str
    source: str | None
    params: dict[str, Any]
    queue: str
    priority: int
    status: Status
    frames_done: int
    frames_total: int | None
    attempts: int
    max_attempts: int
    crashes: int
    max_crashes: int
    worker: str | None
    result: Any
    error: str | None
    checkpoint: int
    epoch: int
    state: dict[str, Any]
    not_before: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    pruned: bool
    time_limit: float | None
    soft_time_limit: float | None
    parent_id: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        found = {name: getattr(self, name) for name in _JSON_KEYS}
        found["status"] = str(self.status)
        for name in ("created_at", "started_at", "ended_at"):
            found[name] = found[name] and found[name].isoformat()
        return found


_JSON_KEYS = (
    "id name key labels task source params queue priority status frames_done frames_total"
    " attempts crashes worker result error created_at started_at ended_at"
    " pruned time_limit soft_time_limit parent_id"
).split()
_COLUMNS = ", ".join(
    f"s.{name}" if name != "worker" else "w.name AS worker"
    for name in Scenario.__dataclass_fields__
)
_FROM = "scenarios s LEFT JOIN workers w ON w.id = s.worker_id"


def get(connection: Connection, scenario_id: int) -> Scenario:
    """Return one scenario. Raises NotFoundError."""
    found = find(connection, ids=[scenario_id], limit=1)
    if not found:
        raise no_such_scenario(scenario_id)
    return found[0]


def no_such_scenario(scenario_id: int) -> NotFoundError:
    """Return the error for an id that no scenario has."""
    return NotFoundError(f"no scenario {scenario_id}", hint="see `vidan scenario list`")


# The page of each status is read in the order of the index (status, id), from its edge on: no other
# index has that order. For `=` the planner, which knows nothing of statuses, would read all ids
_NEWEST_OF_EACH = """
SELECT s.* FROM unnest(CAST(:status AS text[])) AS wanted (status) CROSS JOIN LATERAL (
    {rows} AND (s.status, s.id) <= (wanted.status, :edge) AND s.status >= wanted.status
    ORDER BY s.status DESC, s.id DESC LIMIT :limit
) s
"""
_OLDEST_OF_EACH = """
SELECT s.* FROM unnest(CAST(:status AS text[])) AS wanted (status) CROSS JOIN LATERAL (
    {rows} AND (s.status, s.id) >= (wanted.status, :edge) AND s.status <= wanted.status
    ORDER BY s.status, s.id LIMIT :limit
) s
"""


def find(
    connection: Connection,
    *,
    status: Sequence[Status] | None = None,
    labels: Mapping[str, str] | None = None,
    task: str | None = None,
    ids: Sequence[int] | None = None,
    after_id: int | None = None,
    limit: int = 50,
    newest_first: bool = True,
) -> list[Scenario]:
    """Return scenarios, one keyset page by id; `after_id` is the last id of the page before."""
    if not all(map(storable.is_text, [task or "", *(labels or {}), *(labels or {}).values()])):
        return []  # nothing can have been stored under it
    conditions = ["true"]
    if labels:
        conditions.append("s.labels @> CAST(:labels AS jsonb)")
    if task is not None:
        conditions.append("s.task = :task")
    if ids is not None:
        conditions.append("s.id = ANY(CAST(:ids AS bigint[]))")
    if after_id is not None:
        conditions.append("s.id < :after_id" if newest_first else "s.id > :after_id")
    rows = f"SELECT * FROM scenarios s WHERE {' AND '.join(conditions)}"
    if status is not None:
        rows = (_NEWEST_OF_EACH if newest_first else _OLDEST_OF_EACH).format(rows=rows)
    order = "DESC" if newest_first else "ASC"
    edge = MAX_ID if newest_first else 0
    found = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM ({rows}) s LEFT JOIN workers w ON w.id = s.worker_id"
            f" ORDER BY s.id {order} LIMIT :limit"
        ),
        {
            "status": sorted({str(one) for one in status or ()}),
            "edge": edge if after_id is None else max(0, min(after_id, MAX_ID)),
            "labels": json.dumps(dict(labels or {})),
            "task": task,
            "ids": None if ids is None else [one for one in ids if 0 < one <= MAX_ID],
            "after_id": after_id,
            "limit": max(0, min(limit, MAX_ID)),
        },
    )
    return [Scenario(**{**row, "status": Status(row["status"])}) for row in found.mappings()]


def failed_lately(connection: Connection, *, limit: int = 50) -> list[Scenario]:
    """Return failed scenarios, those that failed last first."""
    found = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM {_FROM} WHERE s.status = 'failed'"
            " ORDER BY s.ended_at DESC NULLS LAST, s.id DESC LIMIT :limit"
        ),
        {"limit": max(0, min(limit, MAX_ID))},
    )
    return [Scenario(**{**row, "status": Status(row["status"])}) for row in found.mappings()]


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a scenario's status."""

    at: datetime
    from_status: Status | None
    to_status: Status
    reason: str | None
    actor: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "at": self.at.isoformat(),
            "from": self.from_status,
            "to": self.to_status,
            "reason": self.reason,
            "actor": self.actor,
        }


def history(
    connection: Connection, scenario_id: int, *, limit: int | None = None
) -> list[Transition]:
    """Return the changes of a scenario's status, of all or of the last `limit`, the oldest first.

    Raises NotFoundError.
    """
    get(connection, scenario_id)
    found = connection.execute(
        text(
            "SELECT * FROM (SELECT id, at, from_status, to_status, reason, actor FROM transitions"
            " WHERE scenario_id = :id ORDER BY id DESC LIMIT :limit) last ORDER BY id"
        ),
        {"id": scenario_id, "limit": limit},
    )
    return [
        Transition(
            row.at,
            row.from_status and Status(row.from_status),
            Status(row.to_status),
            row.reason,
            row.actor,
        )
        for row in found
    ]


def gaps(connection: Connection, scenario_id: int) -> list[Gap]:
    """Return the frames that could not be had, in order."""
    found = connection.execute(
        text(
            "SELECT from_frame, to_frame, reason FROM gaps WHERE scenario_id = :id"
            " ORDER BY from_frame"
        ),
        {"id": scenario_id},
    )
    return [Gap(row.from_frame, row.to_frame, row.reason) for row in found]
