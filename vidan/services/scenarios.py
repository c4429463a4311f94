"""Scenarios as their users see them: one, a page of them, their history, their gaps.

`protocol.creation` creates them; its public names can be imported from here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.domain.detection import Gap
from vidan.domain.status import Status, status_of
from vidan.errors import NotFoundError
from vidan.protocol.creation import Created, NewScenario, create, create_many
from vidan.services.filters import Filters, all_of

__all__ = [
    "Created",
    "Filters",
    "NewScenario",
    "Scenario",
    "Transition",
    "create",
    "create_many",
    "find",
    "gaps",
    "get",
    "history",
    "no_such_scenario",
    "page",
    "traceback",
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario's row. `worker` is the name of the worker that holds it.

    `lost_frames` is the number of frames in its gaps: of the source, before sampling. `source_info`
    is what the worker found out about the video: `width`, `height`, `fps`, `codec`,
    `sample_aspect_ratio` (width to height of a displayed pixel such as `16:15`; null: not said) and
    `frames_estimated` (null where `frames_total` is known, or nothing is). It is None before the
    first frames are stored. `notes` are sentences about what else was noticed.

    The place in the queue and the seconds of waiting and running are None unless `queueing.told`
    has added them.
    """

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
    lost_frames: int
    source_info: dict[str, Any] | None
    notes: list[str]
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
    queue_position: int | str | None = None
    waited_seconds: float | None = None
    ran_seconds: float | None = None

    @property
    def due_at(self) -> datetime | None:
        """When a worker may take it, which may have passed; None unless it waits for one."""
        return self.not_before if self.status is Status.INIT_STARTUP else None

    @property
    def next_try_at(self) -> datetime | None:
        """When it is tried again after an error or the death of a worker; None unless it waits."""
        return self.due_at if self.attempts or self.crashes else None

    @property
    def max_retries(self) -> int:
        """How many errors of its runs are retried, since the last progress."""
        return self.max_attempts

    @property
    def retries_left(self) -> int:
        """How many more errors of its runs are retried."""
        return max(0, self.max_attempts - self.attempts)

    @property
    def frames_estimated(self) -> int | None:
        """About how many frames will be stored, where `frames_total` is not known."""
        found = (self.source_info or {}).get("frames_estimated")
        return found if self.frames_total is None and isinstance(found, int) else None

    @property
    def retries(self) -> int:
        """How many runs followed on errors since the last progress, `max_attempts` at most."""
        return min(self.attempts, self.max_attempts)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        found = {name: getattr(self, name) for name in _JSON_KEYS}
        found["status"] = str(self.status)
        for name in TIMES:
            found[name] = found[name] and found[name].isoformat()
        return found


TIMES = ("created_at", "started_at", "ended_at", "due_at", "next_try_at")
"""The times in a scenario's JSON."""


_JSON_KEYS = (
    "id name key labels task source params queue priority status frames_done frames_total"
    " lost_frames attempts crashes worker result error"
    " created_at started_at ended_at pruned time_limit soft_time_limit parent_id"
    " source_info notes retries max_retries retries_left due_at next_try_at queue_position"
    " waited_seconds ran_seconds"
).split()
_LOST = """(
    SELECT coalesce(sum(g.to_frame - g.from_frame + 1), 0)::bigint FROM gaps g
    WHERE g.scenario_id = s.id
) AS lost_frames"""
_ELSEWHERE = {"worker": "w.name AS worker", "lost_frames": _LOST}
_TOLD = ("queue_position", "waited_seconds", "ran_seconds")
_COLUMNS = ", ".join(
    _ELSEWHERE.get(name, f"s.{name}") for name in Scenario.__dataclass_fields__ if name not in _TOLD
)

# The page of each status is read in the order of the index (status, id), from its edge on; no other
# index has this order. With `=` the planner, which has no statistics of statuses, would read all
# ids.
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


def get(connection: Connection, scenario_id: int) -> Scenario:
    """Return one scenario. Raises NotFoundError."""
    found = find(connection, ids=[scenario_id], limit=1)
    if not found:
        raise no_such_scenario(scenario_id)
    return found[0]


def no_such_scenario(scenario_id: int) -> NotFoundError:
    """Return the error for an id without a scenario."""
    return NotFoundError(f"no scenario {scenario_id}", hint="see `vidan scenario list`")


def find(
    connection: Connection,
    *,
    status: Sequence[Status] | None = None,
    labels: Mapping[str, str] | None = None,
    task: str | None = None,
    source: str | None = None,
    queue: str | None = None,
    since: datetime | None = None,
    ids: Sequence[int] | None = None,
    after_id: int | None = None,
    limit: int = 50,
    newest_first: bool = True,
) -> list[Scenario]:
    """Return scenarios, one keyset page by id; `after_id` is the last id of the page before.

    The conditions are those of `Filters`.
    """
    return page(
        connection,
        Filters(status, labels or {}, task, source, queue, since),
        ids=ids,
        after_id=after_id,
        limit=limit,
        newest_first=newest_first,
    )


def page(
    connection: Connection,
    filters: Filters,
    *,
    ids: Sequence[int] | None = None,
    after_id: int | None = None,
    limit: int = 50,
    newest_first: bool = True,
) -> list[Scenario]:
    """Return one keyset page, by id, of the scenarios that match."""
    if filters.impossible:
        return []
    further, order, edge = ("<", "DESC", MAX_ID) if newest_first else (">", "ASC", 0)
    conditions = {
        **filters.conditions(),
        "s.id = ANY(CAST(:ids AS bigint[]))": ids is not None,
        f"s.id {further} :after_id": after_id is not None,
    }
    rows = f"SELECT * FROM scenarios s WHERE {all_of(conditions)}"
    if filters.status is not None:
        rows = (_NEWEST_OF_EACH if newest_first else _OLDEST_OF_EACH).format(rows=rows)
    found = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM ({rows}) s LEFT JOIN workers w ON w.id = s.worker_id"
            f" ORDER BY s.id {order} LIMIT :limit"
        ),
        {
            **filters.parameters(),
            "edge": edge if after_id is None else max(0, min(after_id, MAX_ID)),
            "ids": [one for one in ids or () if 0 < one <= MAX_ID],
            "after_id": after_id,
            "limit": max(0, min(limit, MAX_ID)),
        },
    )
    return [Scenario(**{**row, "status": Status(row["status"])}) for row in found.mappings()]


def traceback(connection: Connection, scenario_id: int) -> str | None:
    """Return the traceback of the last error of a scenario's run, shortened; None if it has none.

    A run that ended with its process leaves none.
    """
    return connection.execute(
        text("SELECT traceback FROM scenarios WHERE id = :id"), {"id": scenario_id}
    ).scalar_one_or_none()


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
    """Return the changes of a scenario's status, oldest first: all of them, or the last `limit`.

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
            row.from_status and status_of(row.from_status),
            status_of(row.to_status),
            row.reason,
            row.actor,
        )
        for row in found
    ]


def gaps(connection: Connection, scenario_id: int) -> list[Gap]:
    """Return the missing frames of a scenario, in order."""
    found = connection.execute(
        text(
            "SELECT from_frame, to_frame, reason FROM gaps WHERE scenario_id = :id"
            " ORDER BY from_frame"
        ),
        {"id": scenario_id},
    )
    return [Gap(row.from_frame, row.to_frame, row.reason) for row in found]
