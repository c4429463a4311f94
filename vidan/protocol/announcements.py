"""What the orchestrator announces: scenarios whose `announce_at` has come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, text

CHANNEL = "vidan_announce"
"""NOTIFY on it wakes the orchestrators. Nothing relies on it."""


def wake(connection: Connection) -> None:
    """Wake the orchestrators when this transaction commits: there is something to announce."""
    connection.execute(text(f"NOTIFY {CHANNEL}"))


def take_due(connection: Connection, limit: int = 1000) -> list[int]:
    """Clear `announce_at` of due scenarios and return their ids: the caller announces them.

    Any number of orchestrators may call it at once: each row goes to one of them.
    """
    found = connection.execute(
        text(
            # an array, not a join: that was planned as a scan of the whole table
            "UPDATE scenarios SET announce_at = NULL WHERE id = ANY(ARRAY("
            "SELECT id FROM scenarios WHERE announce_at <= now()"
            " ORDER BY announce_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)) RETURNING id"
        ),
        {"limit": limit},
    )
    return list(found.scalars())


def announce_again(connection: Connection, ids: Sequence[int], *, delay: float = 1.0) -> None:
    """Set `announce_at` again for scenarios whose announcement failed and that still wait."""
    connection.execute(
        text(
            "UPDATE scenarios SET announce_at ="
            " greatest(now() + make_interval(secs => :delay), not_before) WHERE id IN"
            " (SELECT id FROM scenarios WHERE id = ANY(:ids) AND status = 'init_startup'"
            " AND announce_at IS NULL ORDER BY id FOR NO KEY UPDATE)"
        ),
        {"ids": list(ids), "delay": delay},
    )


def next_due(connection: Connection) -> timedelta | None:
    """Return how long it is until the next announcement is due, None if none waits."""
    found: timedelta | None = connection.execute(
        text("SELECT min(announce_at) - now() FROM scenarios WHERE announce_at IS NOT NULL")
    ).scalar()
    return found


def restart(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Plan the announcement of scenarios that wait for their retry, whoever asked for it.

    Returns the ids that it did; a scenario in any other status is left as it is, so that a stop
    and a spent budget are never undone.
    """
    found = connection.execute(
        text(
            "UPDATE scenarios SET announce_at = greatest(now(), not_before) WHERE id IN"
            " (SELECT id FROM scenarios WHERE id = ANY(:ids) AND status = 'init_startup'"
            " ORDER BY id FOR NO KEY UPDATE) RETURNING id"
        ),
        {"ids": list(ids)},
    )
    return set(found.scalars())
