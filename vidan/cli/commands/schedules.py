"""`vidan schedules`: which tasks run by the clock, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "schedules",
    "Show the tasks that run by the clock, pause and resume them.",
    examples="""
        vidan schedules list
        vidan schedules pause myvideos.count_people
    """,
)

Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its name.")]


@commands.command(
    "list",
    examples="""
        vidan schedules list
        vidan schedules list --json | jq 'map(.next_at) | min'
    """,
)
def list_schedules(out: Output, settings: Settings) -> None:
    """List the schedules.

    In a pipe: name, task, cron, time zone, next time, last time, its scenario, separated by tabs.
    """
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import schedules

        found = schedules.find(connection)
    out.listing(
        found,
        {
            "NAME": lambda s: s.name,
            "TASK": lambda s: s.task,
            "CRON": lambda s: s.cron,
            "ZONE": lambda s: s.timezone,
            "NEXT": lambda s: s.next_at if s.enabled else "paused",
            "LAST": lambda s: s.last_at,
            "SCENARIO": lambda s: s.last_id,
        },
        record=lambda s: s.as_json(),
        id=lambda s: s.name,
        name="schedules",
        spare=("LAST", "SCENARIO"),
    )


@commands.command(
    "show",
    examples="""
        vidan schedules show myvideos.count_people
        vidan schedules show myvideos.count_people --json | jq .last_id
    """,
)
def show(out: Output, settings: Settings, schedule: Name) -> None:
    """Show one schedule with all its fields."""
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import schedules

        found = schedules.get(connection, schedule)
    out.details(found.as_json(), id=found.name)


@commands.command("pause", examples="vidan schedules pause myvideos.count_people")
def pause(out: Output, settings: Settings, schedule: Name) -> None:
    """Fire a schedule no more, until it is resumed. Its scenarios go on."""
    with connect.database(settings, out) as database, database.begin() as connection:
        from vidan.services import schedules

        schedules.pause(connection, schedule)
        found = schedules.get(connection, schedule)
    out.details(found.as_json(), id=found.name)


@commands.command("resume", examples="vidan schedules resume myvideos.count_people")
def resume(out: Output, settings: Settings, schedule: Name) -> None:
    """Fire a paused schedule again. What fell in the pause is not made up for."""
    with connect.database(settings, out) as database, database.begin() as connection:
        from vidan.services import schedules

        schedules.resume(connection, schedule)
        found = schedules.get(connection, schedule)
    out.details(found.as_json(), id=found.name)
