"""Which scenarios a caller wants: conditions that all of them meet, and the order they come in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.domain.status import Status
from vidan.protocol import storable

ORDERS: Mapping[str, str] = {
    "id": "s.id",
    "name": 's.name COLLATE "C"',
    "task": 's.task COLLATE "C"',
    "source": 's.source COLLATE "C"',
    "queue": 's.queue COLLATE "C"',
    "priority": "s.priority",
    "frames": "s.frames_done",
    "created": "s.created_at",
    "started": "s.started_at",
    "ended": "s.ended_at",
}
"""What scenarios can be sorted by: the user's word → SQL."""


@dataclass(frozen=True, slots=True)
class Order:
    """What scenarios are sorted by, a word of ORDERS; the default is the newest first."""

    by: str = "id"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on scenarios; None, or no label, is no condition.

    In `source`, `*` stands for any characters. `since` is the earliest time of creation.
    """

    status: Sequence[Status] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    source: str | None = None
    queue: str | None = None
    since: datetime | None = None

    @property
    def impossible(self) -> bool:
        """Whether no scenario can match, since the database can't store one of the words."""
        words = [self.task, self.source, self.queue, *self.labels, *self.labels.values()]
        return not all(storable.is_text(word or "") for word in words)

    def conditions(self) -> dict[str, bool]:
        """Return the conditions except that on the status: SQL → whether it applies."""
        return {
            "s.labels @> CAST(:labels AS jsonb)": bool(self.labels),
            "s.task = :task": self.task is not None,
            "s.source LIKE :source": self.source is not None,
            "s.queue = :queue": self.queue is not None,
            "s.created_at >= :since": self.since is not None,
        }

    def where(self) -> str:
        """Return all conditions as one, that on the status included."""
        of_status = {"s.status = ANY(CAST(:status AS text[]))": self.status is not None}
        return all_of({**self.conditions(), **of_status})

    def parameters(self) -> dict[str, Any]:
        """Return the values that the conditions name."""
        return {
            "status": sorted({str(one) for one in self.status or ()}),
            "labels": json.dumps(dict(self.labels)),
            "task": self.task,
            "source": self.source and _pattern(self.source),
            "queue": self.queue,
            "since": self.since,
        }


def count(connection: Connection, filters: Filters, *, most: int) -> int:
    """Return how many scenarios match, `most` at most: the counting ends there."""
    if filters.impossible:
        return 0
    statement = f"SELECT 1 FROM scenarios s WHERE {filters.where()} LIMIT :most"
    found = connection.execute(
        text(f"SELECT count(*) FROM ({statement}) counted"),
        {**filters.parameters(), "most": most},
    )
    return int(found.scalar_one())


def sorted_ids(
    connection: Connection, filters: Filters, order: Order, *, limit: int | None = None
) -> list[int]:
    """Return the ids of the matching scenarios in this order; equal ones are sorted by id.

    Scenarios without the value come last. A caller that reads the rows later, page by page, gets
    each scenario once, even if its value changes in the meantime.
    """
    if filters.impossible:
        return []
    direction = "DESC" if order.descending else "ASC"
    found = connection.execute(
        text(
            f"SELECT s.id FROM scenarios s WHERE {filters.where()}"
            f" ORDER BY {ORDERS[order.by]} {direction} NULLS LAST, s.id {direction} LIMIT :limit"
        ),
        {**filters.parameters(), "limit": limit and min(limit, MAX_ID)},
    )
    return list(found.scalars())


def all_of(conditions: Mapping[str, bool]) -> str:
    """Return the conditions that apply, joined by AND."""
    return " AND ".join(["true", *(one for one, applies in conditions.items() if applies)])


def _pattern(source: str) -> str:
    """Return the pattern of LIKE that matches a source in which `*` stands for any characters."""
    for special in ("\\", "%", "_"):
        source = source.replace(special, f"\\{special}")
    return source.replace("*", "%")
