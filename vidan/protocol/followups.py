"""Scenarios that are created when another one ends, in the transaction that ends it.

A follow-up is created once, because its row in `followups` is deleted when it is created. So a
scenario that is started again does not create its follow-ups a second time, and a scenario that
failed, was retried and completes still creates the follow-ups of `then`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.bounds import PAGE
from vidan.domain.status import Status
from vidan.protocol import announcements, creation, groups

_ENDS = (Status.COMPLETED, Status.FAILED)
"""Statuses that follow-ups wait for; not `inactive`, because a stopped scenario may start again."""

# The follow-ups of a scenario are created in the order in which they were given.
_TAKE = """
WITH taken AS (
    DELETE FROM followups f
    USING unnest(CAST(:ids AS bigint[]), CAST(:statuses AS text[])) AS e (id, status)
    WHERE f.scenario_id = e.id AND f.on_status = e.status
    RETURNING f.id, f.scenario_id, f.new
)
SELECT CAST(new || jsonb_build_object('parent_id', scenario_id) AS text)
FROM taken ORDER BY scenario_id, id
"""


def create_after(
    connection: Connection, moved: Sequence[tuple[int, Status]], *, actor: str
) -> None:
    """Create the follow-ups of these scenarios (id, new status) and count them in their groups.

    The caller has locked the scenarios' rows in the order of their ids; groups are locked after
    them.
    """
    ended = [one for one in moved if one[1] in _ENDS]
    if not ended:
        return
    rows = connection.execute(
        text(_TAKE),
        {"ids": [one[0] for one in ended], "statuses": [str(one[1]) for one in ended]},
    )
    creation.insert_stored(connection, list(rows.scalars()), actor=actor)
    groups.count_ended(connection, [one[0] for one in ended], actor=actor)
    announcements.wake(connection)


def forget(connection: Connection, scenario_id: int, *, actor: str) -> None:
    """Drop a deleted scenario's follow-ups, and let no group wait for it."""
    connection.execute(text("DELETE FROM followups WHERE scenario_id = :id"), {"id": scenario_id})
    groups.forget(connection, scenario_id, actor=actor)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The scenario that a follow-up follows on. Only `id` is known of a deleted scenario."""

    id: int
    task: str | None = None
    status: Status | None = None
    result: Any = None
    error: str | None = None


def predecessor(connection: Connection, scenario_id: int) -> Predecessor | None:
    """Return the scenario whose follow-up this scenario is, None if it is no follow-up."""
    found = connection.execute(
        text(
            "SELECT s.parent_id, p.id, p.task, p.status, p.result, p.error FROM scenarios s"
            " LEFT JOIN scenarios p ON p.id = s.parent_id WHERE s.id = :id"
        ),
        {"id": scenario_id},
    ).one_or_none()
    if found is None or found.parent_id is None:
        return None
    if found.id is None:
        return Predecessor(found.parent_id)
    return Predecessor(found.id, found.task, Status(found.status), found.result, found.error)


def members(
    connection: Connection, callback_id: int, *, after: int = -1, limit: int = PAGE
) -> list[tuple[int, Predecessor]]:
    """Return a page of the members, with their places, of the group that has this callback.

    They come in the order in which they were given; `after` is the last place of the page before.
    """
    found = connection.execute(
        text(
            "SELECT m.place, s.id, s.task, s.status, s.result, s.error FROM groups g"
            " JOIN group_members m ON m.group_id = g.id JOIN scenarios s ON s.id = m.scenario_id"
            " WHERE g.callback_id = :id AND m.place > :after ORDER BY m.place LIMIT :limit"
        ),
        {"id": callback_id, "after": after, "limit": limit},
    )
    return [
        (row.place, Predecessor(row.id, row.task, Status(row.status), row.result, row.error))
        for row in found
    ]
