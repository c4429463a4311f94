"""Create scenarios: checked against their tasks, inserted with their transition, announced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from vidan.db.session import DatabaseConflict
from vidan.domain.bounds import (
    DEFAULT_QUEUE,
    EARLIEST,
    LATEST,
    MAX_AFTER_SECONDS,
    MAX_NAME_BYTES,
)
from vidan.domain.status import Status
from vidan.domain.time_limits import TimeLimits
from vidan.errors import InputRejected
from vidan.protocol import announcements, partitions, storable, tasks

MAX_STEPS = 100
"""Of a chain: each step carries those after it."""


@dataclass(frozen=True, slots=True)
class NewScenario:
    """A scenario to be created.

    Every way to create one builds this value, and its options are checked here alone: the command
    line, HTTP, `Task.apply`, a Signature, a Schedule.

    It does not run before `not_before`, nor before `after` seconds have passed on the database's
    clock. `max_attempts` is the number of retries after an error; the time limits are seconds of
    one run. None takes the task's value. The scenarios of `then` are created when it completes,
    those of `on_failure` when it fails, each once.
    """

    source: str | None = None
    task: str = tasks.DETECT.name
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    status: Status = Status.INIT_STARTUP
    not_before: datetime | None = None
    after: float | None = None
    max_attempts: int | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    then: Sequence[NewScenario] = ()
    on_failure: Sequence[NewScenario] = ()


_GIVEN = tuple(one.name for one in fields(NewScenario))


@dataclass(frozen=True, slots=True)
class Created:
    """A scenario's id; `new` is False when a repeated key returned the one that has it."""

    id: int
    new: bool


def create(connection: Connection, new: NewScenario, *, actor: str = "user") -> Created:
    """Create one scenario; see `create_many`."""
    return create_many(connection, [new], actor=actor)[0]


def create_many(
    connection: Connection,
    news: Sequence[NewScenario],
    *,
    actor: str = "user",
    followed: bool = False,
) -> list[Created]:
    """Create scenarios, in the order given; a key that exists returns the scenario that has it.

    `followed` marks the new ones as those on whose end something follows (see `groups`).

    Raises InputRejected (params, source, status, labels) or NotFoundError (task) before any row is
    written, DatabaseConflict when a scenario with such a key was deleted just now.
    """
    specs = tasks.known(connection, _tasks_of(news))
    rows = [(new.key, _row(new, specs, followed)) for new in news]
    # looked up first: an insert would wait for whoever is changing the scenario that has the key
    by_key = _ids_of_keys(connection, [new.key for new in news if new.key is not None])
    inserted = insert(connection, [row for key, row in rows if key not in by_key], actor=actor)
    fresh = {row.id for row in inserted if row.key is not None}
    unkeyed = iter(sorted(row.id for row in inserted if row.key is None))
    by_key.update({row.key: row.id for row in inserted if row.key is not None})
    missing = {new.key for new in news if new.key is not None and new.key not in by_key}
    by_key.update(_ids_of_keys(connection, missing))  # made by another since we looked
    if not missing <= by_key.keys():
        raise DatabaseConflict("a scenario was deleted while its key was asked for again")
    if inserted:
        announcements.wake(connection)
    created = []
    for new in news:
        if new.key is None:
            created.append(Created(next(unkeyed), new=True))
        else:
            scenario_id = by_key[new.key]
            created.append(Created(scenario_id, new=scenario_id in fresh))
            fresh.discard(scenario_id)
    return created


# ids follow the order given, but rows are inserted in the order of their keys: two that create the
# same ones wait for each other, and never in a circle
_INSERT = """
WITH given AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('scenarios', 'id')) AS id, r.*,
           CASE WHEN r.not_before IS NOT NULL OR r.after IS NOT NULL THEN
               least(greatest(r.not_before, now() + make_interval(secs => r.after), :earliest),
                     :latest) END AS earliest
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r
        (name text, key text, labels jsonb, task text, source text, needs_source boolean,
         params jsonb, queue text, priority integer, status text, not_before timestamptz,
         after double precision, max_attempts integer, time_limit double precision,
         soft_time_limit double precision, parent_id bigint, followed boolean, "then" jsonb,
         on_failure jsonb)
),
inserted AS (
    INSERT INTO scenarios (id, name, key, labels, task, source, needs_source, params, queue,
                           priority, status, not_before, announce_at, max_attempts, time_limit,
                           soft_time_limit, week, ended_at, parent_id, followed)
    SELECT n.id, n.name, n.key, n.labels, n.task, n.source, n.needs_source, n.params, n.queue,
           n.priority, n.status, coalesce(n.earliest, now()),
           CASE WHEN n.status = 'init_startup' THEN greatest(now(), n.earliest) END,
           n.max_attempts, n.time_limit, n.soft_time_limit, :week,
           CASE WHEN n.status = 'inactive' THEN now() END, n.parent_id, n.followed
    FROM given n
    ORDER BY n.key, n.id
    ON CONFLICT (key) DO NOTHING
    RETURNING id, key, status
),
logged AS (
    INSERT INTO transitions (scenario_id, to_status, reason, actor)
    SELECT id, status, 'created', :actor FROM inserted
){followups}
SELECT id, key FROM inserted
"""


_FOLLOWUPS = """,
following AS (
    INSERT INTO followups (scenario_id, on_status, new)
    SELECT n.id, f.on_status, f.new FROM given n JOIN inserted ON inserted.id = n.id
    CROSS JOIN LATERAL (
        SELECT 'completed' AS on_status, value AS new FROM jsonb_array_elements(n."then")
        UNION ALL SELECT 'failed', value FROM jsonb_array_elements(n.on_failure)
    ) f
)
"""


def insert(connection: Connection, rows: Sequence[str], *, actor: str) -> Sequence[Row[Any]]:
    """Insert scenarios that were checked (`row_of`). Returns (id, key) of those that are new."""
    if not rows:
        return []
    week = partitions.this_week(connection)
    partitions.ensure_week(connection, week)
    # a param may hold the word too: then the longer statement is taken, and finds nothing more
    followups = _FOLLOWUPS if any('"then":' in row for row in rows) else ""
    return connection.execute(
        text(_INSERT.format(followups=followups)),
        {
            "rows": f"[{', '.join(rows)}]",
            "earliest": EARLIEST,
            "latest": LATEST,
            "week": week,
            "actor": actor,
        },
    ).all()


def row_of(connection: Connection, new: NewScenario) -> str:
    """Check a scenario that is to be created later, and return what `insert` takes then.

    Raises InputRejected or NotFoundError.
    """
    return _row(new, tasks.known(connection, _tasks_of([new])))


def check(new: NewScenario, spec: tasks.TaskSpec) -> None:
    """Check a scenario that nothing follows on against its task. Raises InputRejected."""
    _row(new, {spec.name: spec})


def _tasks_of(news: Sequence[NewScenario], depth: int = 0) -> set[str]:
    """Return the names of the tasks of scenarios and of all that follow on them."""
    if depth > MAX_STEPS:
        raise InputRejected(f"a chain has at most {MAX_STEPS} steps after the first")
    found = {new.task for new in news}
    for new in news:
        if new.then or new.on_failure:
            found |= _tasks_of([*new.then, *new.on_failure], depth + 1)
    return found


def _row(new: NewScenario, specs: Mapping[str, tasks.TaskSpec], followed: bool = False) -> str:
    """Return a new scenario's row as JSON. Raises InputRejected."""
    try:
        return storable.json_text(_columns(new, specs, followed))
    except ValueError as error:
        raise InputRejected(f"the scenario can't be stored: {error}") from None


def _columns(
    new: NewScenario, specs: Mapping[str, tasks.TaskSpec], followed: bool
) -> dict[str, Any]:
    spec = specs[new.task]
    if new.status not in (Status.INIT_STARTUP, Status.INACTIVE):
        raise InputRejected(
            f"a scenario can't be created as {new.status}", hint="init_startup or inactive"
        )
    if not all(isinstance(one, str) for pair in new.labels.items() for one in pair):
        raise InputRejected("the values of labels are strings")
    for name, value in (("key", new.key), ("queue", new.queue)):
        if name == "key" and value is None:
            continue
        size = len(value.encode(errors="replace")) if isinstance(value, str) else 0
        if not 0 < size <= MAX_NAME_BYTES:
            raise InputRejected(f"a {name} is text of 1 to {MAX_NAME_BYTES} bytes")
    if new.after is not None and not 0 <= new.after <= MAX_AFTER_SECONDS:
        raise InputRejected(f"after {new.after:g} s is out of range", hint="0 to 100 years")
    if not storable.is_whole(new.priority) or not -(2**31) <= new.priority < 2**31:
        raise InputRejected(f"priority {new.priority} is out of range", hint="a 32-bit integer")
    if new.max_attempts is not None and not (
        storable.is_whole(new.max_attempts) and 0 <= new.max_attempts < 2**31
    ):
        raise InputRejected(
            f"max_attempts {new.max_attempts} is out of range", hint="a whole number, 0 or more"
        )
    if new.time_limit is not None or new.soft_time_limit is not None:
        TimeLimits.of(new.time_limit, new.soft_time_limit)
        of_task = TimeLimits(spec.time_limit, spec.soft_time_limit)
        of_task.outweighed_by(new.time_limit, new.soft_time_limit).check()
    tasks.validate(spec, new.params, new.source)
    row = {name: getattr(new, name) for name in _GIVEN}
    row["params"], row["labels"] = dict(new.params), dict(new.labels)
    row["not_before"] = None if new.not_before is None else _in_range(new.not_before)
    row["needs_source"] = spec.needs_source
    if new.max_attempts is None:
        row["max_attempts"] = spec.max_attempts
    del row["then"], row["on_failure"]
    row["followed"] = followed
    if new.then or new.on_failure:
        row["followed"] = True
        row["then"] = [_columns(one, specs, False) for one in new.then]
        row["on_failure"] = [_columns(one, specs, False) for one in new.on_failure]
    return row


def _in_range(not_before: datetime) -> str | None:
    """Return the time as the table takes it; None: it is due. Raises InputRejected."""
    if not isinstance(not_before, datetime):
        raise InputRejected(f"not_before is no datetime: {not_before!r}")
    if not_before.tzinfo is None:
        raise InputRejected("not_before has no time zone")
    if not_before < EARLIEST:  # which the table doesn't take: both are due
        return None
    if not_before > datetime.now(UTC) + timedelta(seconds=MAX_AFTER_SECONDS):
        raise InputRejected(
            f"not_before {not_before.isoformat()} is out of range",
            hint="100 years from now at most",
        )
    return not_before.astimezone(UTC).isoformat()


def _ids_of_keys(connection: Connection, keys: Collection[str]) -> dict[str, int]:
    if not keys:
        return {}
    found = connection.execute(
        text("SELECT key, id FROM scenarios WHERE key = ANY(:keys)"), {"keys": list(keys)}
    )
    return {row.key: row.id for row in found}
