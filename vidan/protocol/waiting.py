"""What waits in the queues, and what governs it: a worker looks here before it claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text


class Seen(NamedTuple):
    """A task as a worker finds it.

    `due` are the definitions of its due scenarios, MAX_DEFINITIONS of a queue at most. `version` is
    the app's version that governs the task, None if no worker has published it.
    """

    task: str
    version: int | None
    capped: bool
    due: tuple[str, ...]


MAX_DEFINITIONS = 20
"""Most definitions of one queue and task that a worker finds at once."""

# The index of claims is walked from one definition to the next.
_LOOK = """
SELECT t.task, c.version, c.concurrency IS NOT NULL OR c.rate_limit IS NOT NULL AS capped,
    ARRAY(
        SELECT DISTINCT d.definition FROM unnest(CAST(:queues AS text[])) AS q (queue)
        CROSS JOIN LATERAL (
            WITH RECURSIVE walked (definition) AS (
                (SELECT s.definition FROM scenarios s
                 WHERE s.status = 'init_startup' AND s.queue = q.queue AND s.task = t.task
                 ORDER BY s.definition LIMIT 1)
                UNION ALL
                SELECT further.definition FROM walked w CROSS JOIN LATERAL (
                    SELECT s.definition FROM scenarios s
                    WHERE s.status = 'init_startup' AND s.queue = q.queue AND s.task = t.task
                      AND s.definition > w.definition
                    ORDER BY s.definition LIMIT 1
                ) further
            )
            SELECT definition FROM walked LIMIT :most
        ) d
        WHERE EXISTS (
            SELECT 1 FROM scenarios s
            WHERE s.status = 'init_startup' AND s.queue = q.queue AND s.task = t.task
              AND s.definition = d.definition AND s.not_before <= now()
        )
    ) AS due
FROM unnest(CAST(:tasks AS text[])) AS t (task) LEFT JOIN tasks c ON c.name = t.task
"""


def look(connection: Connection, queues: Sequence[str], tasks: Sequence[str]) -> list[Seen]:
    """Return what is due of each task and what governs it, in the order of `tasks`.

    A sweep asks this first, because it mostly finds nothing and the claim's own statement takes
    longer to plan than to run.
    """
    found = connection.execute(
        text(_LOOK), {"queues": list(queues), "tasks": list(tasks), "most": MAX_DEFINITIONS}
    )
    return [Seen(row.task, row.version, row.capped, tuple(row.due)) for row in found]


def schemas(
    connection: Connection, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Return known definitions (task, digest) as JSON text: `[schema, needs_source]`."""
    found = connection.execute(
        text(
            "SELECT d.task, d.digest,"
            " CAST(jsonb_build_array(d.params_schema, d.needs_source) AS text) AS written"
            " FROM unnest(CAST(:tasks AS text[]), CAST(:digests AS text[])) AS w (task, digest)"
            " JOIN task_definitions d ON d.task = w.task AND d.digest = w.digest"
        ),
        {"tasks": [task for task, _ in wanted], "digests": [digest for _, digest in wanted]},
    )
    return {(row.task, row.digest): row.written for row in found}


def lacking(connection: Connection, queues: Sequence[str], tasks: Sequence[str]) -> set[str]:
    """Return the tasks of up to a thousand due scenarios that are not among `tasks`."""
    found = connection.execute(
        text(
            "SELECT DISTINCT task FROM (SELECT task FROM scenarios WHERE status = 'init_startup'"
            " AND queue = ANY(CAST(:queues AS text[])) AND not_before <= now() LIMIT 1000) due"
            " WHERE task <> ALL(CAST(:tasks AS text[]))"
        ),
        {"queues": list(queues), "tasks": list(tasks)},
    )
    return set(found.scalars())
