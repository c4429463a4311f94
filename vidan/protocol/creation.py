"""Create scenarios: check them against their tasks, insert them, plan their announcement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DataError, IntegrityError

from vidan.db.session import DatabaseConflict
from vidan.domain.bounds import (
    DEFAULT_QUEUE,
    EARLIEST,
    LATEST,
    MAX_AFTER_SECONDS,
    MAX_INTEGER,
    MAX_NAME_BYTES,
)
from vidan.domain.status import Status
from vidan.domain.time_limits import TimeLimits
from vidan.errors import InputRejected, KeyTaken
from vidan.protocol import announcements, keys, partitions, restarts, storable, tasks

log = logging.getLogger("vidan.creation")

MAX_STEPS = 100
"""Most steps of a chain after its first one: each step's row carries all steps after it."""


@dataclass(frozen=True, slots=True)
class NewScenario:
    """A scenario to be created.

    Every way to create one builds this value, and its options are checked here alone: the command
    line, HTTP, `Task.apply`, a Signature, a Schedule.

    It does not run before `not_before`, nor before `after` seconds have passed on the database's
    clock. `max_attempts` is the number of retries after an error; the time limits are seconds of
    one run. None takes the task's value. The scenarios of `then` are created when it completes,
    those of `on_failure` when it fails, each once.

    A scenario that has the `key` already is returned, and none is created. It has to be the same
    work (see `keys`), unless `key_reuse` takes whatever has the key. With `retry_failed` it resumes
    at its checkpoint if it has failed or was stopped; it keeps its own queue, times and limits.
    """

    source: str | None = None
    task: str = tasks.DETECT.name
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    key: str | None = None
    key_reuse: bool = False
    retry_failed: bool = False
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


_ABOUT_KEYS = ("key_reuse", "retry_failed")
_GIVEN = tuple(one.name for one in fields(NewScenario) if one.name not in _ABOUT_KEYS)

# The ids follow the order given, but rows are inserted in the order of their keys, so that two
# transactions that create the same keys can't wait for each other in a circle.
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
         soft_time_limit double precision, parent_id bigint, followed boolean, definition text,
         "then" jsonb, on_failure jsonb)
),
inserted AS (
    INSERT INTO scenarios (id, name, key, labels, task, source, needs_source, params, queue,
                           priority, status, not_before, announce_at, max_attempts, time_limit,
                           soft_time_limit, week, ended_at, parent_id, followed, definition)
    SELECT n.id, n.name, n.key, n.labels, n.task, n.source, n.needs_source, n.params, n.queue,
           n.priority, n.status, coalesce(n.earliest, now()),
           CASE WHEN n.status = 'init_startup' THEN greatest(now(), n.earliest) END,
           n.max_attempts, n.time_limit, n.soft_time_limit, :week,
           CASE WHEN n.status = 'inactive' THEN now() END, n.parent_id, n.followed,
           coalesce(n.definition, '')
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


@dataclass(frozen=True, slots=True)
class Created:
    """A scenario's id; `new` is False if the scenario existed, with the same key.

    `found` is the status in which an existing one was found, `resumed` whether it was started
    again.
    """

    id: int
    new: bool
    resumed: bool = field(default=False, compare=False)
    found: Status | None = field(default=None, compare=False)


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
    """Create scenarios, in the order given; an existing key returns the scenario that has it.

    `followed` marks the new scenarios as members of a group (see `groups`).

    Raises InputRejected (params, source, status, labels) or NotFoundError (task) before any row is
    written; KeyTaken when a key belongs to other work, and NotAllowedError when a scenario can't be
    retried, after which the caller rolls back; DatabaseConflict when a scenario with one of the
    keys was deleted meanwhile.
    """
    specs = tasks.known(connection, _tasks_of(news))
    rows = [(new.key, _row(new, specs, followed)) for new in news]
    keyed = _by_key(news, specs)
    # Existing keys are looked up first, because an insert would wait for a transaction that is
    # changing the scenario with the key.
    holders = keys.holders(connection, keyed.keys())
    _require_same_work(keyed, holders, specs)
    inserted = insert(connection, [row for key, row in rows if key not in holders], actor=actor)
    # Another transaction may have created the remaining keys meanwhile.
    late = keyed.keys() - holders.keys() - {row.key for row in inserted}
    holders.update(keys.holders(connection, late))
    if not late <= holders.keys():
        raise DatabaseConflict("a scenario was deleted while its key was asked for again")
    _require_same_work({key: keyed[key] for key in late}, holders, specs)
    resumed = _retry(connection, keyed, holders, actor)
    if inserted:
        announcements.wake(connection)
    return _in_order(news, inserted, holders, resumed)


_Keyed = Mapping[str, Sequence[tuple[NewScenario, keys.Work]]]


def _by_key(news: Sequence[NewScenario], specs: Mapping[str, tasks.TaskSpec]) -> _Keyed:
    """Return the scenarios that have keys, by key. Raises KeyTaken for one given to two works."""
    found: dict[str, list[tuple[NewScenario, keys.Work]]] = {}
    for new in news:
        if new.key is not None:
            work = keys.Work(new.task, new.source, storable.json_text(dict(new.params)))
            found.setdefault(new.key, []).append((new, work))
    for key, (first, *others) in found.items():
        _require_same(key, first[1], others, specs, "is given to two scenarios that differ", "")
    return found


def _require_same_work(
    keyed: _Keyed, holders: Mapping[str, keys.Holder], specs: Mapping[str, tasks.TaskSpec]
) -> None:
    """Raise KeyTaken if a key belongs to other work than is asked for."""
    for key, asked in keyed.items():
        if (holder := holders.get(key)) is not None:
            belongs = f"belongs to scenario {holder.id}, which differs"
            reuse = f", or key_reuse (--key-reuse) to get scenario {holder.id} all the same"
            _require_same(key, holder.work, asked, specs, belongs, reuse)


def _require_same(
    key: str,
    work: keys.Work,
    asked: Sequence[tuple[NewScenario, keys.Work]],
    specs: Mapping[str, tasks.TaskSpec],
    belongs: str,
    reuse: str,
) -> None:
    for new, wanted in asked:
        if new.key_reuse:
            continue
        differing = keys.differences(work, wanted, specs[new.task].params_schema)
        if differing:
            raise KeyTaken(
                f"key {key!r} {belongs} in {', '.join(differing)}",
                hint=f"take another key{reuse}",
            )


def _retry(
    connection: Connection, keyed: _Keyed, holders: Mapping[str, keys.Holder], actor: str
) -> set[int]:
    """Start again what has failed or was stopped, where that is asked for. Returns the ids."""
    asked = [
        holders[key]
        for key, news in keyed.items()
        if key in holders and any(new.retry_failed for new, _ in news)
    ]
    ended = [one for one in asked if one.status in restarts.RESUMABLE]
    for one in ended:
        if one.pruned:
            raise restarts.pruned(one.id)
    return restarts.restart(
        connection,
        [one.id for one in ended],
        actor=actor,
        reason="its key was asked for again",
        only=restarts.RESUMABLE,
    )


def insert(connection: Connection, rows: Sequence[str], *, actor: str) -> Sequence[Row[Any]]:
    """Insert rows that `checked_row` has returned. Returns (id, key) of the new scenarios."""
    if not rows:
        return []
    week = partitions.this_week(connection)
    partitions.ensure_week(connection, week)
    # If a param contains this text too, the longer statement is sent, with the same effect.
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


def insert_stored(connection: Connection, rows: Sequence[str], *, actor: str) -> list[Row[Any]]:
    """Insert rows that were stored to be created later; see `insert`.

    One that the tables refuse, since it was changed by hand, is left out and logged: it must not
    keep the scenario before it from ending.
    """
    if not rows:
        return []
    try:
        with connection.begin_nested():
            return list(insert(connection, rows, actor=actor))
    except (DataError, IntegrityError) as refused:
        if len(rows) == 1:
            log.error("a follow-up can't be created: %s", storable.line(refused.orig))
            return []
    return [row for one in rows for row in insert_stored(connection, [one], actor=actor)]


def checked_row(connection: Connection, new: NewScenario) -> str:
    """Check a scenario that is to be created later, and return its row for `insert`.

    Raises InputRejected or NotFoundError.
    """
    _check_later(new)
    return _row(new, tasks.known(connection, _tasks_of([new])))


def check(new: NewScenario, spec: tasks.TaskSpec) -> None:
    """Check a scenario without follow-ups against its task. Raises InputRejected."""
    _row(new, {spec.name: spec})


def _tasks_of(news: Sequence[NewScenario], depth: int = 0) -> set[str]:
    """Return the names of the tasks of scenarios and of all their follow-ups."""
    if depth > MAX_STEPS:
        raise InputRejected(f"a chain has at most {MAX_STEPS} steps after the first")
    found = {new.task for new in news}
    for new in news:
        if new.then or new.on_failure:
            found |= _tasks_of([*new.then, *new.on_failure], depth + 1)
    return found


def _row(new: NewScenario, specs: Mapping[str, tasks.TaskSpec], followed: bool = False) -> str:
    """Return a new scenario's row as JSON text. Raises InputRejected."""
    try:
        return storable.json_text(_columns(new, specs, followed))
    except ValueError as error:
        raise InputRejected(f"the scenario can't be stored: {error}") from None


class _Rule(NamedTuple):
    """A rule for new scenarios; `message` is the error, formatted with the scenario as `new`."""

    passes: Callable[[NewScenario], bool]
    message: str
    hint: str | None = None


_RULES = (
    _Rule(
        lambda new: new.status in (Status.INIT_STARTUP, Status.INACTIVE),
        "a scenario can't be created as {new.status}",
        "init_startup or inactive",
    ),
    _Rule(
        lambda new: all(isinstance(one, str) for pair in new.labels.items() for one in pair),
        "the values of labels are strings",
    ),
    _Rule(
        lambda new: new.key is None or _is_name(new.key),
        f"a key is text of 1 to {MAX_NAME_BYTES} bytes",
    ),
    _Rule(
        lambda new: new.key is not None or not (new.key_reuse or new.retry_failed),
        "key_reuse and retry_failed are about a key, and none is given",
        "add key",
    ),
    _Rule(
        lambda new: not (new.retry_failed and new.status is Status.INACTIVE),
        "retry_failed starts a stopped scenario, and inactive holds it back",
        "leave out one of them",
    ),
    _Rule(
        lambda new: _is_name(new.queue),
        f"a queue is text of 1 to {MAX_NAME_BYTES} bytes",
    ),
    _Rule(
        lambda new: new.after is None or 0 <= new.after <= MAX_AFTER_SECONDS,
        "after {new.after:g} s is out of range",
        "0 to 100 years",
    ),
    _Rule(
        lambda new: _is_whole_within(-MAX_INTEGER - 1, new.priority),
        "priority {new.priority} is out of range",
        "a 32-bit integer",
    ),
    _Rule(
        lambda new: new.max_attempts is None or _is_whole_within(0, new.max_attempts),
        "max_attempts {new.max_attempts} is out of range",
        "a whole number, 0 or more",
    ),
)


def _is_name(value: object) -> bool:
    size = len(value.encode(errors="replace")) if isinstance(value, str) else 0
    return 0 < size <= MAX_NAME_BYTES


def _is_whole_within(lowest: int, value: int) -> bool:
    return storable.is_whole(value) and lowest <= value <= MAX_INTEGER


def _check(new: NewScenario, spec: tasks.TaskSpec) -> None:
    """Check a new scenario without its follow-ups. Raises InputRejected."""
    for rule in _RULES:
        if not rule.passes(new):
            raise InputRejected(rule.message.format(new=new), hint=rule.hint)
    if new.time_limit is not None or new.soft_time_limit is not None:
        TimeLimits.of(new.time_limit, new.soft_time_limit)
        of_task = TimeLimits(spec.time_limit, spec.soft_time_limit)
        of_task.outweighed_by(new.time_limit, new.soft_time_limit).check()
    tasks.validate(spec, new.params, new.source)


def _columns(
    new: NewScenario, specs: Mapping[str, tasks.TaskSpec], followed: bool
) -> dict[str, Any]:
    """Return a new scenario's row, which contains its follow-ups' rows. Raises InputRejected."""
    spec = specs[new.task]
    _check(new, spec)
    row = {name: getattr(new, name) for name in _GIVEN}
    row["params"], row["labels"] = dict(new.params), dict(new.labels)
    row["not_before"] = None if new.not_before is None else _in_range(new.not_before)
    row["needs_source"], row["definition"] = spec.needs_source, spec.definition
    if new.max_attempts is None:
        row["max_attempts"] = spec.max_attempts
    del row["then"], row["on_failure"]
    row["followed"] = followed
    if new.then or new.on_failure:
        row["followed"] = True
        for one in (*new.then, *new.on_failure):
            _check_later(one)
        row["then"] = [_columns(one, specs, False) for one in new.then]
        row["on_failure"] = [_columns(one, specs, False) for one in new.on_failure]
    return row


def _in_range(not_before: datetime) -> str | None:
    """Return the time as the table takes it, None if the scenario is due. Raises InputRejected."""
    if not isinstance(not_before, datetime):
        raise InputRejected(f"not_before is not a datetime: {not_before!r}")
    if not_before.tzinfo is None:
        raise InputRejected("not_before has no time zone")
    if not_before < EARLIEST:  # the table does not take it, and a scenario without a time is due
        return None
    if not_before > datetime.now(UTC) + timedelta(seconds=MAX_AFTER_SECONDS):
        raise InputRejected(
            f"not_before {not_before.isoformat()} is out of range",
            hint="100 years from now at most",
        )
    return not_before.astimezone(UTC).isoformat()


def _check_later(new: NewScenario) -> None:
    """Refuse what has no meaning for a scenario that is created when others have ended."""
    if new.retry_failed:
        raise InputRejected(
            "retry_failed is for a scenario that is created now, not for one that follows later",
            hint="leave it out: when the key exists by then, no scenario is created",
        )


def _in_order(
    news: Sequence[NewScenario],
    inserted: Sequence[Row[Any]],
    holders: Mapping[str, keys.Holder],
    resumed: set[int],
) -> list[Created]:
    """Return the scenarios in the order given; if a key comes twice, only the first is new."""
    fresh = {row.key: row.id for row in inserted if row.key is not None}
    unkeyed = iter(sorted(row.id for row in inserted if row.key is None))
    again: set[str] = set()

    def created() -> Iterator[Created]:
        for new in news:
            if new.key is None:
                yield Created(next(unkeyed), new=True)
            elif (holder := holders.get(new.key)) is not None:
                yield Created(holder.id, False, holder.id in resumed, holder.status)
            else:
                yield Created(fresh[new.key], new=new.key not in again)
                again.add(new.key)

    return list(created())
