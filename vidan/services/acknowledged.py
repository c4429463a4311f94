"""Failures of late: scenarios and messages that failed, and which of them people have seen."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from sqlalchemy import Connection, text

from vidan.services.diagnosis import COUNTED, Count


class Failure(StrEnum):
    """A kind of failure, as the table `acknowledged` names it."""

    DEAD_LETTER = "dead letter"
    SCENARIO = "scenario"


_ROWS = {
    Failure.DEAD_LETTER: "SELECT id, received_at AS at FROM dead_letters",
    Failure.SCENARIO: "SELECT id, ended_at AS at FROM scenarios WHERE status = 'failed'",
}

# A failure that comes after the mark is new, be it of a scenario that had failed before.
_UNSEEN = """
SELECT f.id, f.at FROM ({rows} ORDER BY id DESC LIMIT :most) f
WHERE f.at > now() - :since AND NOT EXISTS (
    SELECT FROM acknowledged a WHERE a.failure = :failure AND a.id = f.id AND a.at >= f.at
)
"""

_COUNT = """
SELECT count(*) AS number, (array_agg(id ORDER BY at DESC, id DESC))[1] AS last FROM ({found}) found
"""

_MARK = """
WITH marked AS (
    INSERT INTO acknowledged (failure, id, at) SELECT :failure, id, at FROM ({unseen}) u
    ON CONFLICT (failure, id) DO UPDATE SET at = excluded.at RETURNING id, at
)
{count}
"""


def unseen(connection: Connection, failure: Failure, since: timedelta) -> Count:
    """Count the failures of the time span, among the newest ids, that nobody has marked as seen.

    `first_id` is the id of the last failure.
    """
    return _count(connection, _COUNT.format(found=_unseen(failure)), failure, since)


def mark(connection: Connection, failure: Failure, since: timedelta) -> Count:
    """Mark those failures as seen, and return what `unseen` would have.

    Marks of failures that are older than the time span are deleted: nobody is told of them anyway.
    """
    connection.execute(
        text("DELETE FROM acknowledged WHERE failure = :failure AND at < now() - :since"),
        {"failure": failure, "since": since},
    )
    statement = _MARK.format(
        unseen=_unseen(failure), count=_COUNT.format(found="SELECT id, at FROM marked")
    )
    return _count(connection, statement, failure, since)


def _unseen(failure: Failure) -> str:
    return _UNSEEN.format(rows=_ROWS[failure])


def _count(connection: Connection, statement: str, failure: Failure, since: timedelta) -> Count:
    row = connection.execute(
        text(statement), {"failure": failure, "since": since, "most": COUNTED}
    ).one()
    return Count(row.number, row.last)
