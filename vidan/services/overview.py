"""The overview of `vidan top`: workers, queues and running scenarios, read every second or two.

Each statement reads a bounded number of rows by an index, however many scenarios exist; counts end
at `MANY`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.status import HELD, Status
from vidan.services import timing, workers

MANY = 10_000
"""Counts end here: this number means this many or more."""

QUEUES = 100
"""Most queues that are shown."""

FAILED_LATELY = 1_000
"""Most failed scenarios that are read, the newest ones."""

LATELY_SECONDS = 3_600
"""Age, in seconds, up to which a failure counts as recent."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: how many of its scenarios wait, run, and have failed within the last hour.

    `delayed` are those of the waiting ones that are not due yet, `next_due` when the first of them
    is.
    """

    name: str
    waiting: int
    running: int
    failed: int
    delayed: int = 0
    next_due: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "name": self.name,
            "waiting": self.waiting,
            "running": self.running,
            "failed_lately": self.failed,
            "delayed": self.delayed,
            "next_due_at": self.next_due and self.next_due.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Running:
    """A scenario that a worker holds."""

    id: int
    task: str
    source: str | None
    name: str | None
    queue: str
    status: Status
    frames_done: int
    frames_total: int | None
    frames_estimated: int | None
    worker: str | None
    retries_left: int
    ran_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """Workers, queues and the first running scenarios at the time `at`."""

    at: datetime
    workers: list[workers.WorkerRow]
    queues: list[Queue]
    running: list[Running]


# BETWEEN, and sorted by the status too: only the index (status, id) has this order. With `=` a
# planner with old statistics reads all ids from the first one until it has found enough rows.

# The queues with waiting scenarios are found one after the other, each by one read of the index.
_QUEUES = """
WITH RECURSIVE waiting_in (queue, place) AS (
    (SELECT queue, 1 FROM scenarios WHERE status = 'init_startup' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT next.queue, w.place + 1 FROM waiting_in w CROSS JOIN LATERAL (
        SELECT queue FROM scenarios WHERE status = 'init_startup' AND queue > w.queue
        ORDER BY queue LIMIT 1
    ) next WHERE w.place < :queues
),
running AS (
    SELECT queue, count(*) AS n FROM (
        SELECT queue FROM scenarios WHERE worker_id IS NOT NULL LIMIT :many
    ) held GROUP BY queue
),
failed AS (
    SELECT queue, count(*) AS n FROM (
        SELECT queue, ended_at FROM scenarios WHERE status BETWEEN 'failed' AND 'failed'
        ORDER BY status DESC, id DESC LIMIT :failed
    ) newest WHERE ended_at > now() - make_interval(secs => :lately) GROUP BY queue
),
named AS (
    SELECT queue FROM waiting_in UNION SELECT queue FROM running UNION SELECT queue FROM failed
    UNION SELECT unnest(CAST(:served AS text[]))
)
SELECT n.queue, coalesce(r.n, 0) AS running, coalesce(f.n, 0) AS failed,
       w.waiting, w.delayed, w.next_due
FROM named n LEFT JOIN running r USING (queue) LEFT JOIN failed f USING (queue)
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, count(*) FILTER (WHERE d.not_before > now()) AS delayed,
           min(d.not_before) FILTER (WHERE d.not_before > now()) AS next_due
    FROM (
        SELECT s.not_before FROM scenarios s
        WHERE s.status = 'init_startup' AND s.queue = n.queue LIMIT :many
    ) d
) w
ORDER BY n.queue LIMIT :queues
"""
_RUNNING = """
SELECT s.id, s.task, s.source, s.name, s.queue, s.status, s.frames_done, s.frames_total,
       CASE WHEN jsonb_path_exists(s.source_info, '$.frames_estimated ? (@ >= 0 && @ < 1e15)')
            THEN CAST(CAST(s.source_info ->> 'frames_estimated' AS numeric) AS bigint)
            END AS frames_estimated,
       w.name AS worker, greatest(0, s.max_attempts - s.attempts) AS retries_left
FROM ({held}) h JOIN scenarios s ON s.id = h.id LEFT JOIN workers w ON w.id = s.worker_id
ORDER BY s.id LIMIT :limit
""".format(
    held=" UNION ALL ".join(
        f"(SELECT id FROM scenarios WHERE status BETWEEN '{one}' AND '{one}'"
        " ORDER BY status, id LIMIT :limit)"
        for one in sorted(HELD)
    )
)


def read(connection: Connection, *, limit: int = 100) -> Overview:
    """Return the living workers, the queues, and up to `limit` running scenarios."""
    at = connection.execute(text("SELECT now()")).scalar_one()
    there = workers.find(connection)
    served = sorted({queue for worker in there for queue in worker.queues})
    found = connection.execute(
        text(_QUEUES),
        {
            "served": served[:QUEUES],
            "queues": QUEUES,
            "many": MANY,
            "failed": FAILED_LATELY,
            "lately": LATELY_SECONDS,
        },
    )
    queues = [
        Queue(row.queue, row.waiting, row.running, row.failed, row.delayed, row.next_due)
        for row in found
    ]
    rows = connection.execute(text(_RUNNING), {"limit": limit}).mappings().all()
    times = timing.read(connection, [row["id"] for row in rows])
    running = [
        Running(
            **{**row, "status": Status(row["status"])},
            ran_seconds=times[row["id"]].ran if row["id"] in times else None,
        )
        for row in rows
    ]
    return Overview(at, there, queues, running)
