"""`vidan topics`: the Kafka topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli.command import Commands
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "topics",
    "Create and list the Kafka topics. The embedded broker creates its own.",
    examples="""
        vidan topics create --partitions 12 --replication 3
        vidan topics list
    """,
)


@commands.command(
    "create",
    broker=True,
    examples="""
        vidan topics create
        vidan topics create --partitions 12 --replication 3
    """,
)
def create(
    out: Output,
    settings: Settings,
    partitions: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Partitions of each topic.")
    ] = 6,
    replication: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="Copies of each partition.")
    ] = 1,
) -> None:
    """Create the missing topics and print their names; existing ones stay as they are."""
    from vidan import broker

    created = broker.connect(settings).create_topics(partitions, replication)
    for name in created:
        record = {"topic": name, "partitions": partitions, "replication": replication}
        out.line(record, name, id=name)
    if not created:
        out.note("nothing to do: all topics exist")


@commands.command(
    "list",
    broker=True,
    examples="""
        vidan topics list
        vidan topics list --json | jq '.[].partitions'
    """,
)
def list_topics(
    out: Output,
    settings: Settings,
    all: Annotated[bool, typer.Option("--all", help="List all topics of the cluster.")] = False,
) -> None:
    """List vidan's topics.

    In a pipe: topic, partitions, separated by a tab.
    """
    from vidan import broker
    from vidan.broker import messages

    found = broker.connect(settings).topics()
    out.listing(
        [(name, count) for name, count in sorted(found.items()) if all or name in messages.TOPICS],
        {"TOPIC": lambda t: t[0], "PARTITIONS": lambda t: t[1]},
        record=lambda t: {"topic": t[0], "partitions": t[1]},
        id=lambda t: t[0],
        name="topics of vidan; `vidan topics create` creates them",
    )
