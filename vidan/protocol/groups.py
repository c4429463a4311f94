"""Groups: scenarios with a callback that is created when all of them have ended.

A member has ended when it is `completed` or `failed`, or was deleted; a stopped member may be
started again, so its group waits. Each member counts once, however often it is started again.
Scenarios are locked first, in the order of their ids, then groups in the order of their ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from vidan.db.session import DatabaseConflict
from vidan.protocol import announcements, creation
from vidan.protocol.creation import Created, NewScenario


@dataclass(frozen=True, slots=True)
class Group:
    """A group that was created, with its members in the order given."""

    id: int
    members: tuple[Created, ...]


def create(
    connection: Connection,
    members: Sequence[NewScenario],
    callback: NewScenario,
    *,
    actor: str = "user",
) -> Group:
    """Create the members. The callback follows once all have ended, at once if none is given.

    If a member's key exists, the scenario with that key becomes the member; it counts as ended if
    it has ended. The callback is checked now. Raises what `creation.create_many` raises.
    """
    waiting = creation.checked_row(connection, callback)
    created = creation.create_many(connection, members, actor=actor, followed=True)
    ended = _mark_existing(connection, [one.id for one in created if not one.new])
    ids = list(dict.fromkeys(one.id for one in created))
    group_id: int = connection.execute(
        text(
            "INSERT INTO groups (pending, callback) VALUES (:pending, CAST(:callback AS jsonb))"
            " RETURNING id"
        ),
        {"pending": len(set(ids) - ended), "callback": waiting},
    ).scalar_one()
    connection.execute(
        text(
            "INSERT INTO group_members (group_id, place, scenario_id, ended)"
            " SELECT :group, m.place, m.id, m.id = ANY(CAST(:ended AS bigint[]))"
            " FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS m (id, place)"
        ),
        {"group": group_id, "ids": ids, "ended": list(ended)},
    )
    if ended >= set(ids):
        _call_back(connection, group_id, waiting, actor)
    return Group(group_id, tuple(created))


def _mark_existing(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Mark existing scenarios as members. Returns the ids of those that have ended.

    Raises DatabaseConflict when one was deleted just now: it would never be counted as ended.
    """
    if not ids:
        return set()
    found = connection.execute(
        text(
            "UPDATE scenarios s SET followed = true FROM"
            " (SELECT id FROM scenarios WHERE id = ANY(CAST(:ids AS bigint[]))"
            " ORDER BY id FOR NO KEY UPDATE) r WHERE s.id = r.id RETURNING s.id, s.status"
        ),
        {"ids": list(ids)},
    ).all()
    if len(found) < len(set(ids)):
        raise DatabaseConflict("a scenario was deleted while it was added to a group")
    return {row.id for row in found if row.status in ("completed", "failed")}


def count_ended(connection: Connection, ids: Sequence[int], *, actor: str) -> None:
    """Count these scenarios, whose rows the caller has locked, as ended in their groups.

    When the last member of a group has ended, the group's callback is created.
    """
    groups = list(
        connection.execute(
            # Groups are locked before they are counted, so that two transactions that end the
            # last two members see each other.
            text(
                "SELECT id FROM groups WHERE id = ANY(ARRAY(SELECT group_id FROM group_members"
                " WHERE scenario_id = ANY(CAST(:ids AS bigint[])) AND NOT ended))"
                " ORDER BY id FOR NO KEY UPDATE"
            ),
            {"ids": list(ids)},
        ).scalars()
    )
    if not groups:
        return
    counted = Counter(
        connection.execute(
            text(
                "UPDATE group_members SET ended = true WHERE scenario_id ="
                " ANY(CAST(:ids AS bigint[])) AND group_id = ANY(CAST(:groups AS bigint[]))"
                " AND NOT ended RETURNING group_id"
            ),
            {"ids": list(ids), "groups": groups},
        ).scalars()
    )
    full = connection.execute(
        text(
            "WITH left_over AS (UPDATE groups g SET pending = g.pending - c.count"
            " FROM unnest(CAST(:groups AS bigint[]), CAST(:counts AS integer[])) AS c (id, count)"
            " WHERE g.id = c.id RETURNING g.id, g.pending, g.callback)"
            " SELECT id, CAST(callback AS text) AS callback FROM left_over"
            " WHERE pending = 0 ORDER BY id"
        ),
        {"groups": list(counted), "counts": list(counted.values())},
    )
    for row in full.all():
        _call_back(connection, row.id, row.callback, actor)


def _call_back(connection: Connection, group_id: int, callback: str, actor: str) -> None:
    """Create a group's callback, unless its key exists."""
    for row in creation.insert_stored(connection, [callback], actor=actor):
        connection.execute(
            text("UPDATE groups SET callback_id = :callback WHERE id = :id"),
            {"callback": row.id, "id": group_id},
        )
    announcements.wake(connection)


def forget(connection: Connection, scenario_id: int, *, actor: str) -> None:
    """Count a deleted scenario as ended; a deleted callback takes the rows of its group along."""
    count_ended(connection, [scenario_id], actor=actor)
    for statement in (
        "DELETE FROM group_members WHERE scenario_id = :id OR group_id IN"
        " (SELECT id FROM groups WHERE callback_id = :id)",
        "DELETE FROM groups WHERE callback_id = :id",
    ):
        connection.execute(text(statement), {"id": scenario_id})
