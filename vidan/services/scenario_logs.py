"""The log lines of a scenario's runs, as its users read them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.db.session import Database
from vidan.domain.bounds import MAX_ID
from vidan.domain.status import ENDED, Status
from vidan.services import scenarios

LATE_SECONDS = 1.0
"""Longest time, in seconds, after the end of a scenario in which its last lines are stored."""

POLL_SECONDS = 0.5
"""Pause, in seconds, between two looks for new lines."""

PAGE = 500
"""Most lines that are read at once."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `level` is that of Python's logging; `epoch` counts the runs of the scenario."""

    line: int
    at: datetime
    epoch: int | None
    level: int
    logger: str
    message: str
    traceback: str | None

    @property
    def level_name(self) -> str:
        """Its level as a word: info, warning …"""
        return logging.getLevelName(self.level).lower()

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "line": self.line,
            "at": self.at.isoformat(),
            "level": self.level_name,
            "logger": self.logger,
            "message": self.message,
            "epoch": self.epoch,
            "traceback": self.traceback,
        }


def read_after(
    connection: Connection,
    scenario_id: int,
    line: int = 0,
    *,
    level: int = 0,
    limit: int = PAGE,
) -> list[LogLine]:
    """Return the lines after the one of this number, of this level at least, in order: one page."""
    found = connection.execute(
        text(
            "SELECT line, at, epoch, level, logger, message, traceback FROM scenario_logs"
            " WHERE scenario_id = :id AND line > :after AND level >= :level"
            " ORDER BY line LIMIT :limit"
        ),
        {"id": scenario_id, "after": line, "level": level, "limit": limit},
    )
    return [LogLine(*row) for row in found]


def cut(connection: Connection, scenario_id: int) -> int:
    """Return how many lines of a scenario were cut. Raises NotFoundError."""
    scenarios.get(connection, scenario_id)
    return int(
        connection.execute(
            text(
                "SELECT coalesce(max(line) - count(*), 0) FROM scenario_logs"
                " WHERE scenario_id = :id"
            ),
            {"id": scenario_id},
        ).scalar_one()
    )


def before_last(connection: Connection, scenario_id: int, lines: int, *, level: int = 0) -> int:
    """Return the number after which the last `lines` lines begin."""
    found = connection.execute(
        text(
            "SELECT line FROM scenario_logs WHERE scenario_id = :id AND level >= :level"
            " ORDER BY line DESC OFFSET :lines LIMIT 1"
        ),
        {"id": scenario_id, "level": level, "lines": min(lines, MAX_ID)},
    ).scalar_one_or_none()
    return found or 0


def read(
    database: Database, scenario_id: int, line: int = 0, *, level: int = 0, follow: bool = False
) -> Iterator[list[LogLine]]:
    """Yield pages of the lines after one, each read in a transaction of its own.

    With `follow`, also those that come later, until the scenario has ended. The lines of a scenario
    that has just ended are waited for. Raises NotFoundError.
    """
    while True:
        with database.begin() as connection:
            wait = _wait(connection, scenario_id, follow=follow)  # asked before the lines are read
            page = read_after(connection, scenario_id, line, level=level)
        if page:
            yield page
            line = page[-1].line
        if len(page) == PAGE:
            continue
        if wait is None:
            return
        time.sleep(wait)


def _wait(connection: Connection, scenario_id: int, *, follow: bool) -> float | None:
    """Return the seconds until the next look, None if this is the last one."""
    found = connection.execute(
        text(
            "SELECT status, CAST(extract(epoch FROM now() - ended_at) AS double precision) AS since"
            " FROM scenarios WHERE id = :id"
        ),
        {"id": scenario_id},
    ).one_or_none()
    if found is None:
        raise scenarios.no_such_scenario(scenario_id)
    if Status(found.status) not in ENDED:
        return POLL_SECONDS if follow else None
    if found.since is None or not 0 <= found.since < LATE_SECONDS:
        return None
    return min(POLL_SECONDS, LATE_SECONDS - float(found.since) + 0.05)
