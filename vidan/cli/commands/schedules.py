"""`vidan schedules`: tasks that start at set times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect, listing
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.options.params import AllRowsOption, LimitOption
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "schedules",
    "Show the tasks that start at set times; pause and resume them.",
    examples="""
        vidan schedules list
        vidan schedules pause myvideos.count_people
    """,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="SCHEDULE", autocompletion=completion.schedules, help="Name of the schedule."
    ),
]


@commands.command(
    "list",
    examples="""
        vidan schedules list
        vidan schedules list --json | jq 'map(.next_at) | min'
    """,
)
def list_schedules(
    out: Output, settings: Settings, limit: LimitOption = None, all: AllRowsOption = False
) -> None:
    """List the schedules. A terminal shows 50 and says how many more there are.

    In a pipe: name, task, cron, time zone, next start, last start, last scenario, separated by
    tabs.
    """
    most = listing.most(out, limit, all)
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
        most=most,
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
    """Pause a schedule: it starts nothing until it is resumed. Its scenarios continue."""
    with connect.database(settings, out) as database, database.begin() as connection:
        from vidan.services import schedules

        schedules.pause(connection, schedule)
        found = schedules.get(connection, schedule)
    out.details(found.as_json(), id=found.name)


@commands.command("resume", examples="vidan schedules resume myvideos.count_people")
def resume(out: Output, settings: Settings, schedule: Name) -> None:
    """Resume a paused schedule. Starts that were missed during the pause are skipped."""
    with connect.database(settings, out) as database, database.begin() as connection:
        from vidan.services import schedules

        schedules.resume(connection, schedule)
        found = schedules.get(connection, schedule)
    out.details(found.as_json(), id=found.name)
