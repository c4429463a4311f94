"""What waiting scenarios wait for: their time, or their place among those that are due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, text

from vidan.domain.status import Status
from vidan.services import timing
from vidan.services.scenarios import Scenario

EXACT = 1_000
"""Places up to which a position is exact: a scenario further behind is at `1000+`."""

BEYOND = f"{EXACT}+"

# A claim takes the due scenarios of a queue by priority, then by the time at which they are due; of
# equal ones the row that was written first, as the index has them. The first ones of each task and
# definition are read by one scan of the index that claims use. A scenario that has killed several
# workers is tried alone, and one that is bound to a worker's source waits for that worker: both are
# passed over by other claims.
_FIRST = """
WITH RECURSIVE kinds (queue, task, definition) AS (
    SELECT q.queue, k.task, k.definition FROM unnest(CAST(:queues AS text[])) AS q (queue)
    CROSS JOIN LATERAL (
        SELECT s.task, s.definition FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = q.queue
        ORDER BY s.task, s.definition LIMIT 1
    ) k
    UNION ALL
    SELECT k.queue, n.task, n.definition FROM kinds k CROSS JOIN LATERAL (
        SELECT s.task, s.definition FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = k.queue
          AND (s.task, s.definition) > (k.task, k.definition)
        ORDER BY s.task, s.definition LIMIT 1
    ) n
)
SELECT id, place FROM (
    SELECT d.id, row_number() OVER (
        PARTITION BY k.queue ORDER BY d.priority DESC, d.not_before, d.at
    ) AS place
    FROM kinds k CROSS JOIN LATERAL (
        SELECT s.id, s.priority, s.not_before, s.ctid AS at FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = k.queue AND s.task = k.task
          AND s.definition = k.definition AND s.not_before <= now()
          AND s.crashes <= 1 AND NOT s.source_bound
        ORDER BY s.priority DESC, s.not_before LIMIT :exact
    ) d
) o WHERE place <= :exact
"""


def places(connection: Connection, queues: Collection[str]) -> dict[int, int]:
    """Return the places of the first scenarios that are due in these queues, by id, from 1."""
    found = connection.execute(text(_FIRST), {"queues": sorted(set(queues)), "exact": EXACT})
    return {row.id: row.place for row in found}


def told(connection: Connection, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Return scenarios with their places in their queues, and the times that they waited and ran.

    Only a scenario that is due has a place: a number up to EXACT, or BEYOND.
    """
    if not scenarios:
        return []
    queues = {one.queue for one in scenarios if one.status is Status.INIT_STARTUP}
    first = places(connection, queues) if queues else {}
    now = connection.execute(text("SELECT now()")).scalar_one()
    times = timing.read(connection, [one.id for one in scenarios])
    found = []
    for one in scenarios:
        seconds = times.get(one.id, timing.Times())
        found.append(
            replace(
                one,
                queue_position=_position(one, first, now),
                waited_seconds=round(seconds.waited, 3),
                ran_seconds=None if seconds.ran is None else round(seconds.ran, 3),
            )
        )
    return found


def _position(one: Scenario, first: dict[int, int], now: datetime) -> int | str | None:
    if one.status is not Status.INIT_STARTUP or one.not_before > now:
        return None
    if one.id in first:
        return first[one.id]
    # one that only certain workers take has no place if the others don't fill the list
    return BEYOND if len(first) >= EXACT and one.crashes <= 1 else None
