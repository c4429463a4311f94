"""Announcements: scenarios whose `announce_at` has passed, which orchestrators announce."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, text

CHANNEL = "vidan_announce"
"""Channel of the NOTIFY that wakes the orchestrators. Nothing relies on its arrival."""


def wake(connection: Connection) -> None:
    """Wake the orchestrators when this transaction commits, because scenarios became due."""
    connection.execute(text(f"NOTIFY {CHANNEL}"))


def take_due(connection: Connection, limit: int = 1000) -> list[int]:
    """Clear `announce_at` of due scenarios and return their ids; the caller announces them.

    Any number of orchestrators may call this at once: each row goes to one of them.
    """
    found = connection.execute(
        text(
            # The ids come as an array: PostgreSQL planned a join as a scan of the whole table.
            "UPDATE scenarios SET announce_at = NULL WHERE id = ANY(ARRAY("
            "SELECT id FROM scenarios WHERE announce_at <= now()"
            " ORDER BY announce_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)) RETURNING id"
        ),
        {"limit": limit},
    )
    return list(found.scalars())


def announce_again(connection: Connection, ids: Sequence[int], *, delay: float = 1.0) -> None:
    """Set `announce_at` again for waiting scenarios whose announcement failed."""
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
    """Return the time until the next announcement is due, None if no announcement is planned."""
    found: timedelta | None = connection.execute(
        text("SELECT min(announce_at) - now() FROM scenarios WHERE announce_at IS NOT NULL")
    ).scalar()
    return found


def plan_retries(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Plan the announcement of scenarios that wait for their retry.

    Returns the ids of these scenarios. A scenario in any other status stays as it is, so an event
    from any sender never undoes a stop or a spent budget.
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
