"""How long scenarios have waited and run, as the history of their statuses tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.domain.status import HELD, Status

WAITING = (Status.INIT_STARTUP, Status.INIT_STARTUP_PROCESSING)
"""Statuses in which a scenario waits: for its time, for a worker, for its source to open."""

RAN = tuple(sorted(HELD - {Status.INIT_STARTUP_PROCESSING}))
"""Statuses in which a scenario runs, or stops."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a scenario has waited and run in all, since it began (last) at frame 0.

    Several runs count together, and the pauses between them do not. `ran` is None before the first
    run.
    """

    waited: float = 0.0
    ran: float | None = None


# A scenario that was started from the beginning counts from there.
_TIMES = """
SELECT t.scenario_id, sum(t.seconds) FILTER (WHERE t.to_status = ANY(:waiting)) AS waited,
       sum(t.seconds) FILTER (WHERE t.to_status = ANY(:ran)) AS ran
FROM unnest(CAST(:ids AS bigint[])) AS s (id)
CROSS JOIN LATERAL (
    SELECT t.scenario_id, t.to_status, CAST(extract(epoch FROM
               coalesce(lead(t.at) OVER (ORDER BY t.id), now()) - t.at) AS double precision)
               AS seconds
    FROM transitions t
    WHERE t.scenario_id = s.id AND t.id >= coalesce((
        SELECT max(b.id) FROM transitions b
        WHERE b.scenario_id = s.id AND b.reason = 'from the beginning'), 0)
) t
GROUP BY t.scenario_id
"""


def read(connection: Connection, ids: Sequence[int]) -> dict[int, Times]:
    """Return the times of these scenarios, by id; one that doesn't exist has none."""
    found = connection.execute(
        text(_TIMES),
        {
            "ids": [one for one in ids if 0 < one <= MAX_ID],
            "waiting": [str(one) for one in WAITING],
            "ran": [str(one) for one in RAN],
        },
    )
    return {
        row.scenario_id: Times(max(0.0, row.waited or 0.0), row.ran and max(0.0, row.ran))
        for row in found
    }
