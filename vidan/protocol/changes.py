"""The one statement that changes the status of scenarios: checked, under a row lock, and logged.

docs/sql shows how it looks when it is sent. `transitions.move` sends it and creates what follows on
scenarios that have ended; a change that ends none may send it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, TextClause, text

from vidan.domain.status import ALLOWED, Status


def status_literal(status: Status) -> str:
    """Return a status as an SQL literal."""
    return f"CAST('{status}' AS text)"


def sql_list(statuses: Collection[Status]) -> str:
    """Return statuses as the inside of an SQL IN (…)."""
    return ", ".join(f"'{status}'" for status in sorted(statuses))


# `rows` finds and locks the rows, ordered by id: id, status, and the columns that `assign` reads
# as r.…
_MOVE = """
WITH rows AS ({rows}),
target AS (
    SELECT r.*, {to} AS to_status, {reason} AS reason{via} FROM rows r
),
moved AS (
    UPDATE scenarios s SET status = r.to_status{assign}
    FROM target r
    WHERE s.id = r.id AND {may}
    RETURNING s.id, r.status AS from_status, s.status AS to_status, r.reason,
        s.followed{via_too}{returning}
),
logged AS (
    INSERT INTO transitions (scenario_id, from_status, to_status, reason, actor)
    {steps}
)
SELECT * FROM moved ORDER BY id
"""
_STEP = "SELECT id, from_status, to_status, reason, CAST(:actor AS text) FROM moved"
# The first steps of all scenarios are inserted before the second steps, so that the ids of the rows
# keep the history of each scenario in order.
_STEPS = """
    SELECT id, from_status, coalesce(via, to_status), reason, CAST(:actor AS text) FROM moved
    UNION ALL
    SELECT id, via, to_status, NULL, CAST(:actor AS text) FROM moved WHERE via IS NOT NULL
"""

_STATUS = {str(status): status for status in Status}
_ALLOWED = ", ".join(
    f"('{source}', '{target}')" for source in ALLOWED for target in sorted(ALLOWED[source])
)


class Moved(NamedTuple):
    """A scenario whose status has changed; `row` has the other columns that were returned."""

    id: int
    from_status: Status
    to_status: Status
    followed: bool  # others follow on its end
    row: Row[Any]


def change(
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
    returned.
    """
    statement = _statement(rows, to, reason, via, tuple(assign), tuple(returning))
    found = connection.execute(statement, {"actor": actor, **parameters}).all()
    return [Moved(row[0], _STATUS[row[1]], _STATUS[row[2]], row[4], row) for row in found]


@cache
def _statement(
    rows: str,
    to: str,
    reason: str,
    via: str | None,
    assign: tuple[str, ...],
    returning: tuple[str, ...],
) -> TextClause:
    may = f"(r.status, r.to_status) IN ({_ALLOWED})"
    if via is not None:
        may = (
            f"(r.status, coalesce(r.via, r.to_status)) IN ({_ALLOWED})"
            f" AND (r.via IS NULL OR (r.via, r.to_status) IN ({_ALLOWED}))"
        )
    return text(
        _MOVE.format(
            rows=rows,
            to=to,
            reason=reason,
            via="" if via is None else f", {via} AS via",
            via_too="" if via is None else ", r.via",
            may=may,
            steps=_STEP if via is None else _STEPS,
            assign="".join(f", {assignment}" for assignment in assign),
            returning="".join(f", {column}" for column in returning),
        )
    )
