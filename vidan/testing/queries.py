"""Which scenarios wait, and for how long: asked by a test's process, which runs all of them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text


def queues(connection: Connection) -> list[str]:
    """Return the queues in which scenarios wait."""
    found = connection.execute(
        text("SELECT DISTINCT queue FROM scenarios WHERE status = 'init_startup' ORDER BY queue")
    )
    return list(found.scalars())


def bring_forward(connection: Connection, tasks: Sequence[str]) -> int | None:
    """Make the scenario that is due next due now; return its id, or None if none waits."""
    found = connection.execute(
        text(
            "UPDATE scenarios SET not_before = now() WHERE id = ("
            " SELECT id FROM scenarios WHERE status = 'init_startup' AND not_before > now()"
            " AND task = ANY(CAST(:tasks AS text[]))"
            " ORDER BY not_before, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) RETURNING id"
        ),
        {"tasks": list(tasks)},
    )
    scenario_id: int | None = found.scalar()
    return scenario_id
