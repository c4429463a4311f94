"""Change a scenario's status: checked against the table of transitions, under a row lock.

Every change of status in the system is made, and logged, by the one statement of this module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from vidan.domain import ALLOWED, RUNNING, Status
from vidan.services import followups

# `rows` finds and locks the rows (id, status, what `assign` reads as r.…), ordered by id
_MOVE = """
WITH rows AS ({rows}),
target AS (
    SELECT r.*, {to} AS to_status, {reason} AS reason FROM rows r
),
moved AS (
    UPDATE scenarios s SET status = r.to_status{assign}
    FROM target r
    WHERE s.id = r.id AND (r.status, r.to_status) IN ({allowed})
    RETURNING s.id, r.status AS from_status, s.status AS to_status, r.reason,
        s.followed{returning}
),
logged AS (
    INSERT INTO transitions (scenario_id, from_status, to_status, reason, actor)
    SELECT id, from_status, to_status, reason, CAST(:actor AS text) FROM moved
)
SELECT * FROM moved ORDER BY id
"""

_ALLOWED = ", ".join(
    f"('{source}', '{target}')" for source in ALLOWED for target in sorted(ALLOWED[source])
)


@dataclass(frozen=True, slots=True)
class Moved:
    """A scenario whose status has changed, with what else the statement returned."""

    id: int
    from_status: Status
    to_status: Status
    row: Row[Any]


def move(
    connection: Connection,
    *,
    rows: str,
    to: str,
    actor: str,
    reason: str = "CAST(NULL AS text)",
    assign: Sequence[str] = (),
    returning: Sequence[str] = (),
    parameters: Mapping[str, Any],
) -> list[Moved]:
    """Move the scenarios that `rows` selects and locks to `to`, and log each in `transitions`.

    `rows`, `to`, `reason`, `assign` and `returning` are SQL; `r` is the row as it was, `s` as it
    becomes. A row whose status does not allow the move stays as it is and is not returned. What
    follows on those that have ended is created with it.
    """
    statement = _statement(rows, to, reason, tuple(assign), tuple(returning))
    found = connection.execute(statement, {"actor": actor, **parameters}).all()
    followed = [(row[0], Status(row[2])) for row in found if row[4]]
    if followed:
        followups.create_after(connection, followed, actor=actor)
    return [Moved(row[0], Status(row[1]), Status(row[2]), row) for row in found]


@cache
def _statement(
    rows: str, to: str, reason: str, assign: tuple[str, ...], returning: tuple[str, ...]
) -> TextClause:
    return text(
        _MOVE.format(
            rows=rows,
            to=to,
            reason=reason,
            assign="".join(f", {assignment}" for assignment in assign),
            returning="".join(f", {column}" for column in returning),
            allowed=_ALLOWED,
        )
    )


def status_literal(status: Status) -> str:
    """Return a status as an SQL literal."""
    return f"CAST('{status}' AS text)"


LET_GO = ("worker_id = NULL",)
"""What every move out of a worker's hands assigns."""


def sql_list(statuses: Collection[Status]) -> str:
    """Return statuses as the inside of an SQL IN (…)."""
    return ", ".join(f"'{status}'" for status in sorted(statuses))


PUT_BACK = (
    f"CASE WHEN r.status IN ({sql_list(RUNNING)}) THEN CAST('init_startup' AS text)"
    " ELSE CAST('inactive' AS text) END"
)
ANNOUNCE = ("announce_at = CASE WHEN r.to_status = 'init_startup' THEN now() END",)
ENDS = ("ended_at = CASE WHEN r.to_status = 'init_startup' THEN NULL ELSE now() END",)

BACK_OFF = "least(300, 2 ^ least({count}, 9)) * (0.5 + random() / 2)"
"""SQL: seconds to wait before a scenario that failed `count` times is tried again, with jitter."""
