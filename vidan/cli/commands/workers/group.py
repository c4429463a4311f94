"""`vidan workers`: the group, and the commands that show workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect, listing
from vidan.cli.command import Commands
from vidan.cli.commands.workers import retire, scale
from vidan.cli.options import completion
from vidan.cli.options.params import LimitOption
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "workers",
    "Show workers, change their slots, drain or stop them. A worker is a process that runs"
    " scenarios on one device.",
    examples="""
        vidan workers list
        vidan workers show cpu-0@host
        vidan workers scale cpu-0@host 4
        vidan workers drain cpu-0@host --wait
    """,
)


@commands.command(
    "list",
    examples="""
        vidan workers list
        vidan workers list --all
        vidan workers list --json | jq 'map(.fps) | add'
    """,
)
def list_workers(
    out: Output,
    settings: Settings,
    all: Annotated[
        bool, typer.Option("--all", help="List all, those that are gone included.")
    ] = False,
    limit: LimitOption = None,
) -> None:
    """List the running workers. A terminal shows 50 and says how many more there are.

    In a pipe: name, state, device, slots, scenarios, fps, queues, last seen, separated by tabs.
    `2 → 4` slots means that the worker has 2 now and will have 4.
    """
    most = limit or listing.most(out, None, all)
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import workers

        found = workers.find(connection, alive_only=not all)
    out.listing(
        found,
        {
            "NAME": lambda w: w.name,
            "STATE": lambda w: w.state,
            "DEVICE": lambda w: w.device,
            "SLOTS": scale.shown,
            "SCENARIOS": lambda w: w.scenarios,
            "FPS": lambda w: round(w.fps, 1),
            "QUEUES": lambda w: w.queues,
            "SEEN": lambda w: w.seen_at,
        },
        record=lambda w: w.as_json(),
        id=lambda w: w.id,
        name="workers; `vidan worker` or `vidan up` starts one",
        spare=("SEEN", "QUEUES"),
        most=most,
    )


@commands.command(
    "show",
    examples="""
        vidan workers show cpu-0@host
        vidan workers show cpu-0@host --json | jq .scenarios
    """,
)
def show(
    out: Output,
    settings: Settings,
    worker: Annotated[
        str,
        typer.Argument(
            metavar="WORKER", autocompletion=completion.workers, help="Name or id of the worker."
        ),
    ],
) -> None:
    """Show one worker with all its fields."""
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import workers

        found = workers.get(connection, worker)
    out.details(found.as_json(), id=found.id)


commands.include(scale.commands)
commands.include(retire.commands)
