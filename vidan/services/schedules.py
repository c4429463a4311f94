"""Schedules as the database keeps them: workers publish them, orchestrators fire them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError

from vidan.db.reading import Unreadable
from vidan.domain.schedule import Schedule, due, next_after
from vidan.errors import InputRejected, NotFoundError
from vidan.protocol import announcements, creation, storable
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import TaskSpec

MAX_SCHEDULE_NAME_BYTES = 900
"""Most bytes of a schedule's name, which becomes part of the keys of scenarios."""

NOT_COMPUTED = timedelta(hours=1)
"""Pause before the next try if the next time can't be computed: this host lacks the time zone, or
the row was changed by hand."""

_PUBLISH = """
    INSERT INTO schedules AS s (name, app, task, cron, timezone, params, source, queue, priority,
                                catch_up, next_at)
    SELECT name, :app, task, cron, timezone, params, source, queue, priority, catch_up, next_at
    FROM jsonb_populate_recordset(CAST(NULL AS schedules), CAST(:rows AS jsonb)) ORDER BY name
    ON CONFLICT (name) DO UPDATE SET app = excluded.app, task = excluded.task,
        cron = excluded.cron, timezone = excluded.timezone, params = excluded.params,
        source = excluded.source, queue = excluded.queue, priority = excluded.priority,
        catch_up = excluded.catch_up,
        next_at = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone)
                       THEN s.next_at ELSE excluded.next_at END
"""


def check(spec: TaskSpec, schedule: Schedule) -> None:
    """Check a schedule, and the scenarios that it will create. Raises InputRejected."""
    size = len((schedule.name or "").encode(errors="replace"))
    if not 0 < size <= MAX_SCHEDULE_NAME_BYTES or not storable.is_text(schedule.name or ""):
        raise InputRejected(f"a schedule's name has 1 to {MAX_SCHEDULE_NAME_BYTES} bytes")
    with named_in_errors(schedule):
        creation.check(_new(spec.name, schedule, datetime.now(UTC)), spec)


@contextmanager
def named_in_errors(schedule: Schedule) -> Iterator[None]:
    """Add the schedule's name to an InputRejected that the block raises."""
    try:
        yield
    except InputRejected as error:
        raise InputRejected(f"schedule {schedule.name!r}: {error}", hint=error.hint) from None


def publish(connection: Connection, app: str, schedules: Sequence[tuple[str, Schedule]]) -> None:
    """Insert or update all schedules (task, schedule) of an app, and delete its other ones.

    A changed cron or time zone counts from now on, without the times that were missed; a paused
    schedule stays paused.
    """
    publish_rows(connection, app, as_rows(schedules))


def as_rows(schedules: Sequence[tuple[str, Schedule]]) -> list[dict[str, Any]]:
    """Return schedules (task, schedule) as JSON objects."""
    return [
        {
            "name": one.name,
            "task": task,
            "cron": one.cron,
            "timezone": one.timezone,
            "params": dict(one.params),
            "source": one.source,
            "queue": one.queue,
            "priority": one.priority,
            "catch_up": one.catch_up,
        }
        for task, one in schedules
    ]


def publish_rows(connection: Connection, app: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Publish the schedules of an app that `as_rows` has returned: see `publish`."""
    known = connection.execute(
        text("SELECT name FROM schedules WHERE app = :app ORDER BY name FOR UPDATE"),
        {"app": app},
    ).all()
    if not known and not rows:
        return
    now = connection.execute(text("SELECT now()")).scalar_one()
    timed = [{**one, "next_at": _first_time(one, now).isoformat()} for one in rows]
    connection.execute(
        text("DELETE FROM schedules WHERE app = :app AND name <> ALL(CAST(:names AS text[]))"),
        {"app": app, "names": [one["name"] for one in rows]},
    )
    connection.execute(text(_PUBLISH), {"app": app, "rows": json.dumps(timed)})
    announcements.wake(connection)


def _first_time(row: Mapping[str, Any], now: datetime) -> datetime:
    try:
        return next_after(row["cron"], row["timezone"], now)
    except InputRejected:  # this host lacks the time zone
        return now + NOT_COMPUTED


def next_due(connection: Connection) -> timedelta | None:
    """Return the time until the next schedule is due, None without an enabled schedule."""
    found: timedelta | None = connection.execute(
        text("SELECT min(next_at) - now() FROM schedules WHERE enabled")
    ).scalar()
    return found


@dataclass(frozen=True, slots=True)
class Fired:
    """The result of firing a due schedule: the ids of the new scenarios, or the error."""

    name: str
    ids: tuple[int, ...]
    error: str | None = None


def fire(connection: Connection, *, actor: str, limit: int = 100) -> list[Fired]:
    """Create the scenarios of due schedules and set their next times, in one transaction.

    Any number of orchestrators may call this at once: each schedule goes to one of them. The key
    `schedule:NAME:TIME` prevents a second run of a time even if the row was changed by hand.
    """
    rows = connection.execute(
        text(
            "SELECT *, now() AS now FROM schedules WHERE enabled AND next_at <= now()"
            " ORDER BY next_at, name LIMIT :limit FOR UPDATE SKIP LOCKED"
        ),
        {"limit": limit},
    ).all()
    return [_fire(connection, row, actor) for row in rows]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule's row. `last_id` is the scenario that it created last."""

    name: str
    task: str
    cron: str
    timezone: str
    params: dict[str, Any]
    source: str | None
    queue: str
    priority: int
    catch_up: str
    enabled: bool
    next_at: datetime
    last_at: datetime | None
    last_id: int | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        found["next_at"] = self.next_at.isoformat() if self.enabled else None
        found["last_at"] = self.last_at and self.last_at.isoformat()
        return found


_COLUMNS = ", ".join(Scheduled.__dataclass_fields__)


def find(connection: Connection) -> list[Scheduled]:
    """Return all schedules, ordered by name."""
    found = connection.execute(text(f"SELECT {_COLUMNS} FROM schedules ORDER BY name"))
    return [Scheduled(**row) for row in found.mappings()]


def get(connection: Connection, name: str) -> Scheduled:
    """Return a schedule. Raises NotFoundError, which names the existing schedules."""
    known = find(connection)
    for one in known:
        if one.name == name:
            return one
    raise NotFoundError(
        f"no schedule {name!r}; there are: {', '.join(one.name for one in known) or 'none'}",
        hint="a worker started with --app publishes its tasks' schedules",
    )


def pause(connection: Connection, name: str) -> bool:
    """Stop firing a schedule. Returns False if it is paused already. Raises NotFoundError."""
    if not get(connection, name).enabled:
        return False
    connection.execute(
        text("UPDATE schedules SET enabled = false WHERE name = :name"), {"name": name}
    )
    return True


def resume(connection: Connection, name: str) -> bool:
    """Fire a paused schedule again from now on, without the times that passed during the pause.

    Returns False if it is not paused. Raises NotFoundError.
    """
    known = get(connection, name)
    if known.enabled:
        return False
    now = connection.execute(text("SELECT now()")).scalar_one()
    connection.execute(
        text("UPDATE schedules SET enabled = true, next_at = :next_at WHERE name = :name"),
        {"name": name, "next_at": next_after(known.cron, known.timezone, now)},
    )
    announcements.wake(connection)
    return True


def _fire(connection: Connection, row: Any, actor: str) -> Fired:
    times: list[datetime] = []
    next_at = row.now + NOT_COMPUTED
    ids: tuple[int, ...] = ()
    error = None
    try:
        if isinstance(row.params, Unreadable):
            raise InputRejected(f"its params can't be read: {row.params.reason}")
        times, next_at = due(row.cron, row.timezone, row.catch_up, row.next_at, row.now)
        news = [_new(row.task, row, time) for time in times]
        with connection.begin_nested():
            ids = tuple(one.id for one in creation.create_many(connection, news, actor=actor))
    except (InputRejected, NotFoundError) as refused:
        error = storable.line(refused)
    except (ArithmeticError, TypeError, ValueError, DataError) as odd:  # it was changed by hand
        error = f"it can't be fired: {storable.line(odd)}"
    connection.execute(
        text(
            "UPDATE schedules SET next_at = :next_at, last_at = coalesce(:last_at, last_at),"
            " last_id = coalesce(:last_id, last_id), error = :error WHERE name = :name"
        ),
        {
            "name": row.name,
            "next_at": next_at,
            "last_at": times[-1] if ids else None,
            "last_id": ids[-1] if ids else None,
            "error": error,
        },
    )
    return Fired(row.name, ids, error)


def _new(task: str, schedule: Any, time: datetime) -> NewScenario:
    """Return the scenario for one time of a schedule, which is a Schedule or its row."""
    return NewScenario(
        task=task,
        source=schedule.source,
        params=schedule.params,
        queue=schedule.queue,
        priority=schedule.priority,
        key=f"schedule:{schedule.name}:{time.isoformat()}",
        key_reuse=True,  # a time runs once, with the params that the schedule had then
        labels={"schedule": schedule.name},
    )
