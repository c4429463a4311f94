"""`vidan dead`: messages that could not be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.output import Output
from vidan.cli.params import MAX_ID, LimitOption

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "dead",
    "Show dead letters: messages that could not be used. Their partitions have moved on.",
    examples="""
        vidan dead list
        vidan dead show 7
    """,
)


@commands.command(
    "list",
    examples="""
        vidan dead list
        vidan dead list --json | jq -r '.[].error' | sort | uniq -c
    """,
)
def list_letters(out: Output, settings: Settings, limit: LimitOption = 50) -> None:
    """List dead letters, the newest first.

    In a pipe: id, topic, partition, offset, time, error, separated by tabs.
    """
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import dead_letters

        found = dead_letters.find(connection, limit=limit)
    out.listing(
        found,
        {
            "ID": lambda d: d.id,
            "TOPIC": lambda d: d.topic,
            "PARTITION": lambda d: d.partition,
            "OFFSET": lambda d: d.offset,
            "RECEIVED": lambda d: d.received_at,
            "ERROR": lambda d: d.error,
        },
        record=lambda d: d.as_json(),
        id=lambda d: d.id,
        name="dead letters",
    )


@commands.command(
    "show",
    examples="""
        vidan dead show 7
        vidan dead show 7 --json | jq -r .payload
    """,
)
def show(
    out: Output,
    settings: Settings,
    letter_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="The dead letter.")
    ],
) -> None:
    """Show one dead letter with its payload."""
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import dead_letters

        found = dead_letters.get(connection, letter_id)
    out.details(found.as_json(), id=found.id)
