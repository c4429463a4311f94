"""Schedules: when a task runs, as a cron expression in a time zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from os import PathLike
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from vidan.domain.bounds import DEFAULT_QUEUE
from vidan.errors import InputRejected

CatchUp = Literal["skip", "latest", "all"]

GRACE = timedelta(minutes=1)
"""Longest delay with which catch_up="skip" still runs a time; a later one was missed."""

AT_ONCE = 1000
"""Most missed times that one transaction catches up on."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a task runs: `cron` has five fields (or six, seconds first), as Debian's cron has.

    When the clocks change, a time that the day lacks comes right after the gap, and a time that
    the day has twice comes once; a schedule that comes every hour or more often keeps its pace.
    `catch_up` decides about times that passed while no orchestrator ran: `latest` runs the last
    one, `all` runs each, `skip` runs none. `name` is the task's name unless given; the second
    schedule of a task needs one. A local `source` is made absolute where the task is registered.
    Raises InputRejected.
    """

    cron: str
    timezone: str = "UTC"
    catch_up: CatchUp = "latest"
    params: Mapping[str, Any] = field(default_factory=dict)
    source: str | PathLike[str] | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        if self.catch_up not in get_args(CatchUp):
            raise InputRejected(
                f"catch_up={self.catch_up!r} is unknown", hint="skip, latest or all"
            )
        next_after(self.cron, self.timezone, datetime.now(UTC))


def named(given: str | Schedule | Sequence[str | Schedule] | None, task: str) -> list[Schedule]:
    """Return a task's schedules, each with a name. Raises InputRejected."""
    several = [given] if isinstance(given, str | Schedule) else given or []
    if not isinstance(several, Sequence) or not all(
        isinstance(one, str | Schedule) for one in several
    ):
        raise InputRejected(
            f"task {task}: schedule={given!r} is not a schedule",
            hint='a cron expression: "0 6 * * *"',
        )
    found = [Schedule(one) if isinstance(one, str) else one for one in several]
    found = [replace(one, name=task if one.name is None else one.name) for one in found]
    if len({one.name for one in found}) < len(found):
        raise InputRejected(
            f"task {task}: two schedules have the same name",
            hint='Schedule("0 6 * * *", name="morning")',
        )
    return found


def next_after(cron: str, timezone: str, moment: datetime) -> datetime:
    """Return the first time after a moment, in UTC. Raises InputRejected."""
    try:
        return next(_times_after(cron, timezone, moment))
    except StopIteration:
        raise InputRejected(f"schedule {cron!r} never runs") from None


def due(
    cron: str, timezone: str, catch_up: str, since: datetime, now: datetime
) -> tuple[list[datetime], datetime]:
    """Return the times from `since` to `now` that are to be run, and the next time after them.

    The next time has passed when more than AT_ONCE times were missed.
    """
    if catch_up == "all":
        times: list[datetime] = []
        after = _times_after(cron, timezone, since - timedelta(seconds=1))
        for time in islice(after, AT_ONCE + 1):
            if time > now or len(times) == AT_ONCE:
                return times, time
            times.append(time)
        return times, next_after(cron, timezone, now)
    latest = next(_times(cron, timezone, now + timedelta(seconds=1), back=True)).astimezone(UTC)
    if latest > now:  # the extra second reached beyond now
        latest = next(_times(cron, timezone, latest, back=True)).astimezone(UTC)
    while (later := next_after(cron, timezone, latest)) <= now:  # the hour comes twice today
        latest = later
    wanted = since <= latest and (catch_up == "latest" or now - latest <= GRACE)
    return [latest] if wanted else [], later


def _times_after(cron: str, timezone: str, moment: datetime) -> Iterator[datetime]:
    """Yield the times after a moment, in UTC.

    For an hour that comes twice CronSim gives the times of the first one, even when `moment` is in
    the second; they are left out.
    """
    for time in _times(cron, timezone, moment):
        if (found := time.astimezone(UTC)) > moment:
            yield found


def _times(cron: str, timezone: str, moment: datetime, *, back: bool = False) -> CronSim:
    try:
        zone: tzinfo = UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputRejected(
            f"no time zone {timezone!r}", hint="a name such as Europe/Berlin"
        ) from None
    try:
        return CronSim(cron, moment.astimezone(zone), reverse=back)
    except CronSimError as error:
        raise InputRejected(
            f"schedule {cron!r}: {error}", hint="such as 0 6 * * * (minute hour day month weekday)"
        ) from None
