"""Transitions: change a scenario's status, and create what follows on its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from vidan.domain.status import RUNNING
from vidan.protocol import changes, followups
from vidan.protocol.changes import Moved, sql_list

RELEASED = ("worker_id = NULL",)
"""SQL assignments of every move that takes a scenario from its worker."""

HANDED_OVER = (
    f"CASE WHEN r.status IN ({sql_list(RUNNING)}) THEN CAST('init_startup' AS text)"
    " ELSE CAST('inactive' AS text) END"
)
"""SQL: the status of a scenario after its worker has handed it over, or has lost it."""

ENDED_AT = ("ended_at = CASE WHEN r.to_status = 'init_startup' THEN NULL ELSE now() END",)
"""SQL assignment of a move that makes a scenario wait again or ends it."""

BACK_OFF = "least(300, 2 ^ least({count}, 9)) * (0.5 + random() / 2)"
"""SQL: seconds to wait, with jitter, before a scenario that failed `count` times runs again."""


def move(
    connection: Connection,
    *,
    rows: str,
    to: str,
    actor: str,
    reason: str = "CAST(NULL AS text)",
    via: str | None = None,
    assign: Sequence[str] = (),
    returning: Sequence[str] = (),
    parameters: Mapping[str, Any],
) -> list[Moved]:
    """Move the scenarios that `rows` selects and locks to `to`, and log each in `transitions`.

    `rows`, `to`, `reason`, `via`, `assign` and `returning` are SQL; `r` is the row before the move,
    `s` the row after it. `via` is a status that is passed on the way, or NULL: both steps are
    checked and logged. A row whose status does not allow the move stays as it is and is not
    returned. The follow-ups of scenarios that have ended are created in the same transaction.
    """
    moved = changes.change(
        connection,
        rows=rows,
        to=to,
        actor=actor,
        reason=reason,
        via=via,
        assign=assign,
        returning=returning,
        parameters=parameters,
    )
    followed = [(one.id, one.to_status) for one in moved if one.followed]
    if followed:
        followups.create_after(connection, followed, actor=actor)
    return moved
