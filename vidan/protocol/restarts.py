"""Restarts: scenarios that have failed or were stopped resume at their checkpoint."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from vidan.domain.status import ENDED, Status
from vidan.errors import NotAllowedError
from vidan.protocol import announcements
from vidan.protocol.changes import change, sql_list, status_literal

RESUMABLE = ENDED - {Status.COMPLETED}
"""Statuses from which a scenario resumes at its checkpoint."""

_ROWS = """SELECT s.id, s.status FROM scenarios s WHERE s.id = ANY(CAST(:ids AS bigint[]))
    AND s.status IN ({statuses}) ORDER BY s.id FOR NO KEY UPDATE"""


def restart(
    connection: Connection,
    ids: Collection[int],
    *,
    actor: str,
    reason: str,
    only: Collection[Status] = ENDED,
) -> set[int]:
    """Make ended scenarios wait for a worker again, with fresh budgets, due at once.

    Returns the ids of those that were in one of the statuses `only`.
    """
    if not ids:
        return set()
    moved = change(
        connection,
        rows=_ROWS.format(statuses=sql_list(only)),
        to=status_literal(Status.INIT_STARTUP),
        reason="CAST(:reason AS text)",
        actor=actor,
        assign=(
            "attempts = 0",
            "crashes = 0",
            "error = NULL",
            "traceback = NULL",
            "result = NULL",
            "ended_at = NULL",
            "not_before = now()",
            "announce_at = now()",
        ),
        parameters={"ids": list(ids), "reason": reason},
    )
    if moved:
        announcements.wake(connection)
    return {one.id for one in moved}


def pruned(scenario_id: int) -> NotAllowedError:
    """Return the error for a scenario that lacks the predictions before its checkpoint."""
    return NotAllowedError(
        f"scenario {scenario_id} can't resume at its checkpoint: its predictions were pruned",
        hint=f"`vidan scenario start {scenario_id} --from-beginning` runs it again",
    )
