"""Versions of apps: which of them governs the tasks' definitions and caps, and the schedules.

A version gets its number when a worker brings it for the first time. The highest one among living
workers governs; while none lives, the last one that governed. `use` raises a version above all
others that there are, and lets it count as living, so that it governs at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.schedule import Schedule
from vidan.errors import NotFoundError
from vidan.protocol import definitions, tasks
from vidan.protocol.tasks import TaskSpec
from vidan.services import schedules

BUILTIN = "vidan"
"""The app of the built-in tasks, whose versions are vidan's own."""


@dataclass(frozen=True, slots=True)
class Brought:
    """An app as a worker brings it; `digest` tells its versions apart."""

    app: str
    digest: str
    specs: Sequence[TaskSpec]
    schedules: Sequence[tuple[str, Schedule]] = ()


def register(connection: Connection, brought: Sequence[Brought]) -> tuple[int, ...]:
    """Return the numbers of versions; one that is new gets its number, and its tasks are kept."""
    return tuple(_register(connection, one) for one in brought)


def _register(connection: Connection, brought: Brought) -> int:
    key = {"app": brought.app, "digest": brought.digest}
    known = text("SELECT number FROM app_versions WHERE app = :app AND digest = :digest")
    number: int | None = connection.execute(known, key).scalar()
    if number is not None:
        return number
    added = connection.execute(
        text(
            "INSERT INTO app_versions (number, app, digest, rank, schedules)"
            " SELECT n, :app, :digest, n, CAST(:schedules AS jsonb)"
            " FROM nextval(pg_get_serial_sequence('app_versions', 'number')) AS n"
            " ON CONFLICT (app, digest) DO NOTHING RETURNING number"
        ),
        key | {"schedules": json.dumps(schedules.as_rows(brought.schedules))},
    ).scalar()
    if added is None:  # another worker has just registered it
        return int(connection.execute(known, key).scalar_one())
    tasks.define(connection, brought.specs)
    columns = ", ".join((*tasks.COLUMNS, "definition"))
    connection.execute(
        text(
            f"INSERT INTO task_versions (version, {columns}) SELECT :number, {columns}"
            " FROM jsonb_populate_recordset(CAST(NULL AS task_versions), CAST(:specs AS jsonb))"
        ),
        {"number": added, "specs": tasks.as_rows(brought.specs)},
    )
    return int(added)


_LIVING = """
    SELECT v.number, v.app, v.rank FROM app_versions v
    WHERE v.used OR v.number IN (
        SELECT unnest(w.versions) FROM workers w WHERE w.lease_until > now()
    )
"""
_WANTED = f"""
    SELECT DISTINCT ON (t.name) t.* FROM ({_LIVING}) v JOIN task_versions t ON t.version = v.number
    ORDER BY t.name, v.rank DESC
"""
_APPS = f"""
    SELECT v.number, v.app, CAST(v.schedules AS text) AS schedules
    FROM (SELECT DISTINCT ON (app) number FROM ({_LIVING}) l ORDER BY app, rank DESC) one
    JOIN app_versions v ON v.number = one.number
    WHERE NOT v.governs ORDER BY v.number
"""


def govern(connection: Connection) -> list[str]:
    """Let the highest version of each task and app govern. Returns what has changed, in words.

    Workers call this when they register, orchestrators again and again: it changes nothing if the
    right versions govern already.
    """
    changed = [f"task {name}" for name in tasks.hold(connection, _WANTED)]
    for row in connection.execute(text(_APPS)).all():
        connection.execute(
            text(
                "UPDATE app_versions v SET governs = (v.number = :number) FROM (SELECT number"
                " FROM app_versions WHERE app = :app AND (governs OR number = :number)"
                " ORDER BY number FOR UPDATE) r WHERE v.number = r.number"
            ),
            {"number": row.number, "app": row.app},
        )
        schedules.publish_rows(connection, row.app, json.loads(row.schedules))
        changed.append(f"version {row.number} of {row.app}")
    return changed


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an app, and the names of the living workers that run it.

    `governs` tells whether its schedules hold, and so do its tasks.
    """

    number: int
    app: str
    digest: str
    governs: bool
    used: bool
    registered_at: datetime
    workers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        found = asdict(self) | {"workers": list(self.workers)}
        found["registered_at"] = self.registered_at.isoformat()
        return found


_SELECT = """
    SELECT v.number, v.app, v.digest, v.governs, v.used, v.registered_at, ARRAY(
        SELECT w.name FROM workers w WHERE w.lease_until > now() AND v.number = ANY(w.versions)
        ORDER BY w.name
    ) AS workers
    FROM app_versions v WHERE {condition} ORDER BY v.rank DESC
"""


def living(connection: Connection) -> list[Version]:
    """Return the versions that living workers run or that govern, the highest first."""
    return [one for one in _select(connection, "true") if one.workers or one.governs]


def of_task(connection: Connection, task: str) -> list[Version]:
    """Return the versions of a task that living workers run or that govern, the highest first."""
    having = "EXISTS (SELECT 1 FROM task_versions t WHERE t.version = v.number AND t.name = :task)"
    found = _select(connection, having, task=task)
    return [one for one in found if one.workers or one.governs]


def governing(connection: Connection, task: str) -> int | None:
    """Return the number of the version that governs a task, None if no worker has brought it."""
    found: int | None = connection.execute(
        text("SELECT version FROM tasks WHERE name = :task"), {"task": task}
    ).scalar()
    return found


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Scenarios of a task that wait, COUNTED at most, by the definition that has checked them.

    `versions` have this definition; `workers` are the living workers of these versions.
    """

    definition: str
    count: int
    first_id: int
    versions: tuple[int, ...]
    workers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return asdict(self) | {"versions": list(self.versions), "workers": list(self.workers)}


COUNTED = 1_000
"""Most waiting scenarios that are read of a task: this count means this many or more."""

_WAITING = """
    SELECT s.definition, count(*) AS found, min(s.id) AS first_id, ARRAY(
        SELECT t.version FROM task_versions t
        WHERE t.name = :task AND t.definition = s.definition ORDER BY t.version
    ) AS versions, ARRAY(
        SELECT DISTINCT w.name FROM workers w JOIN task_versions t ON t.version = ANY(w.versions)
        WHERE w.lease_until > now() AND t.name = :task AND t.definition = s.definition
        ORDER BY w.name
    ) AS workers
    FROM (SELECT id, definition FROM scenarios WHERE status = 'init_startup' AND task = :task
          ORDER BY id LIMIT :most) s
    GROUP BY s.definition ORDER BY min(s.id)
"""


def waiting_for(connection: Connection, task: str) -> list[WaitingFor]:
    """Return what waits of a task, by definition."""
    found = connection.execute(text(_WAITING), {"task": task, "most": COUNTED})
    return [
        WaitingFor(row.definition, row.found, row.first_id, tuple(row.versions), tuple(row.workers))
        for row in found
    ]


_RUNNERS = f"""
    SELECT d.task, d.digest, t.version, t.version IS NOT DISTINCT FROM c.version AS governs,
        t.needs_source = d.needs_source AS same,
        CAST(t.params_schema AS text) AS own, CAST(d.params_schema AS text) AS wanted
    FROM unnest(CAST(:tasks AS text[]), CAST(:digests AS text[])) AS w (task, digest)
    JOIN task_definitions d ON d.task = w.task AND d.digest = w.digest
    JOIN task_versions t ON t.name = d.task
    JOIN ({_LIVING}) v ON v.number = t.version
    LEFT JOIN tasks c ON c.name = d.task
"""


def runners(
    connection: Connection, pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], set[int] | None]:
    """Return which living versions run the scenarios of these definitions (task, digest).

    None stands for all versions: the definition is unknown, or the scenarios were not checked.
    """
    found: dict[tuple[str, str], set[int] | None] = dict.fromkeys(pairs)
    known = text("SELECT task, digest FROM task_definitions WHERE digest = ANY(:digests)")
    digests = [digest for _, digest in pairs]
    for row in connection.execute(known, {"digests": digests}):
        if (row.task, row.digest) in found:
            found[row.task, row.digest] = set()
    names = [task for task, _ in pairs]
    for row in connection.execute(text(_RUNNERS), {"tasks": names, "digests": digests}):
        running = found[row.task, row.digest]
        if running is not None and (
            row.governs
            or (row.same and definitions.accepts(json.loads(row.own), json.loads(row.wanted)))
        ):
            running.add(row.version)
    return found


def use(connection: Connection, number: int) -> Version:
    """Let a version of an app govern at once, and until a newer one is registered.

    It governs though no worker runs it. Raises NotFoundError.
    """
    found = connection.execute(
        text("SELECT app FROM app_versions WHERE number = :number FOR UPDATE"), {"number": number}
    ).scalar()
    if found is None:
        raise NotFoundError(
            f"no version {number} of any app", hint="`vidan tasks show TASK` lists its versions"
        )
    connection.execute(
        text(
            "UPDATE app_versions SET used = (number = :number), rank = CASE WHEN number = :number"
            " THEN nextval(pg_get_serial_sequence('app_versions', 'number')) ELSE rank END"
            " WHERE app = :app AND (used OR number = :number)"
        ),
        {"number": number, "app": found},
    )
    govern(connection)
    return _select(connection, "v.number = :number", number=number)[0]


def _select(connection: Connection, condition: str, **parameters: Any) -> list[Version]:
    found = connection.execute(text(_SELECT.format(condition=condition)), parameters).mappings()
    return [Version(**{**row, "workers": tuple(row["workers"])}) for row in found]
