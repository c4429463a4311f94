"""Stores the log lines of runs with their scenarios: the newest ones, up to a bound.

The lines of a scenario are numbered from 1. A number that is missing is a line that was cut: by the
bounds, or in a worker that could not store as fast as its task logged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

MAX_LINES = 2_000
"""Most lines that are kept of a scenario: the oldest ones are cut."""

MAX_BYTES = 2**20
"""Most bytes of text that are kept of a scenario; a batch may be over it until the next one."""

_LOCKS = 770_627  # a number chosen freely, the first half of advisory transaction locks

_LOCK = """
SELECT pg_advisory_xact_lock(:locks, CAST(id % 2147483648 AS integer))
FROM unnest(CAST(:ids AS bigint[])) AS given (id)
"""
_INSERT = """
INSERT INTO scenario_logs (scenario_id, line, at, epoch, level, logger, message, traceback)
SELECT g.scenario_id, coalesce(last.line, 0) + g.place, g.at, g.epoch, g.level, g.logger, g.message,
       g.traceback
FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS g (scenario_id bigint, place bigint,
     at timestamptz, epoch bigint, level smallint, logger text, message text, traceback text)
JOIN scenarios s ON s.id = g.scenario_id
LEFT JOIN LATERAL (
    SELECT max(l.line) AS line FROM scenario_logs l WHERE l.scenario_id = g.scenario_id
) last ON true
"""
_CUT_LINES = """
DELETE FROM scenario_logs l
USING (
    SELECT given.id, (
        SELECT max(k.line) FROM scenario_logs k WHERE k.scenario_id = given.id
    ) - :lines AS upto
    FROM unnest(CAST(:ids AS bigint[])) AS given (id)
) old
WHERE l.scenario_id = old.id AND l.line <= old.upto
"""
_CUT_BYTES = """
DELETE FROM scenario_logs l
USING (
    SELECT k.scenario_id, k.line, sum(
        octet_length(k.message) + coalesce(octet_length(k.traceback), 0)
    ) OVER (PARTITION BY k.scenario_id ORDER BY k.line DESC) AS bytes
    FROM scenario_logs k WHERE k.scenario_id = ANY(CAST(:ids AS bigint[]))
) old
WHERE l.scenario_id = old.scenario_id AND l.line = old.line AND old.bytes > :bytes
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run's log. `level` is that of Python's logging, such as 20 for INFO."""

    at: datetime
    epoch: int | None
    level: int
    logger: str
    message: str
    traceback: str | None = None

    @property
    def size(self) -> int:
        """Its length in characters."""
        return len(self.message) + len(self.traceback or "")

    def record(self) -> dict[str, Any]:
        """Return it as JSON, as the statement reads it."""
        return {
            "at": self.at.isoformat(),
            "epoch": self.epoch,
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
            "traceback": self.traceback,
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """New lines of one scenario, after `cut` further ones that were not kept."""

    lines: Sequence[Line]
    cut: int = 0


def keep(
    connection: Connection, batches: Mapping[int, Batch], *, measure: Collection[int] = ()
) -> None:
    """Store new lines of scenarios, by their ids, and cut what is over the bounds.

    Lines of a scenario that was deleted are dropped. The bytes of all its lines are counted for the
    scenarios in `measure` alone, since that reads them.
    """
    ids = sorted(batches)
    lines = [
        {"scenario_id": one, "place": batches[one].cut + place, **line.record()}
        for one in ids
        for place, line in enumerate(batches[one].lines, start=1)
    ]
    # Two processes may log about one scenario: a worker and its supervisor.
    _lock(connection, ids)
    connection.execute(text(_INSERT), {"lines": json.dumps(lines, ensure_ascii=False)})
    connection.execute(text(_CUT_LINES), {"ids": ids, "lines": MAX_LINES})
    if measure:
        connection.execute(text(_CUT_BYTES), {"ids": sorted(measure), "bytes": MAX_BYTES})


def forget(connection: Connection, scenario_id: int) -> None:
    """Delete the lines of a scenario that is being deleted.

    A worker that stores its last lines meanwhile waits, and then finds no scenario.
    """
    _lock(connection, [scenario_id])
    connection.execute(
        text("DELETE FROM scenario_logs WHERE scenario_id = :id"), {"id": scenario_id}
    )


def _lock(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(text(_LOCK), {"locks": _LOCKS, "ids": ids})
