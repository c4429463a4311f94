"""`vidan dead`: messages that could not be read, and scenarios that have failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.commands.dead import steer
from vidan.cli.options.params import LimitOption, kind
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import MAX_ID

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Connection
    from vidan.services.dead_letters import DeadLetter
    from vidan.services.scenarios import Scenario

commands = Commands(
    "dead",
    "Failed scenarios and unreadable messages (dead letters); resend or delete messages.",
    examples="""
        vidan dead list
        vidan dead show 7
        vidan dead replay 7
        vidan dead purge --all --before 30d --yes
    """,
)


_NOUNS = {
    None: "unreadable messages and no failed scenarios",
    "message": "unreadable messages",
    "scenario": "failed scenarios",
}


@dataclass(frozen=True)
class Entry:
    """A row of the listing: an unreadable message, or a failed scenario."""

    kind: str
    id: int
    origin: str
    at: datetime | None
    error: str | None
    record: Mapping[str, Any]


def _of_letter(letter: DeadLetter) -> Entry:
    origin = f"{letter.topic}/{letter.partition}@{letter.offset}"
    record = {"kind": "message", **letter.as_json()}
    return Entry("message", letter.id, origin, letter.received_at, letter.error, record)


def _of_scenario(scenario: Scenario) -> Entry:
    origin = f"{scenario.task} {scenario.source or ''}".strip()
    record = {"kind": "scenario", **scenario.as_json()}
    return Entry("scenario", scenario.id, origin, scenario.ended_at, scenario.error, record)


@commands.command(
    "list",
    examples="""
        vidan dead list
        vidan dead list --kind scenario -q | xargs -r vidan scenario retry
        vidan dead list -q | xargs -r vidan dead replay
        vidan dead list --json | jq -r '.[].error' | sort | uniq -c
    """,
)
def list_dead(
    out: Output,
    settings: Settings,
    only: Annotated[
        str | None,
        typer.Option(
            "--kind", metavar="K", parser=kind, help="Only this kind: message or scenario."
        ),
    ] = None,
    limit: LimitOption = 50,
) -> None:
    """List unreadable messages and failed scenarios, the newest first.

    `vidan dead replay` sends a message again; messages behind it were not held up. `vidan scenario
    retry` resumes a failed scenario. In a pipe: id, kind, origin, time, error, separated by tabs.
    With --quiet, prints message ids; for scenarios add --kind scenario.
    """
    wanted = only or ("message" if out.quiet and not out.json else None)
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        found = _newest(connection, wanted, limit)
    out.listing(
        found,
        {
            "ID": lambda e: e.id,
            "KIND": lambda e: e.kind,
            "ORIGIN": lambda e: e.origin,
            "AT": lambda e: e.at,
            "ERROR": lambda e: e.error,
        },
        record=lambda e: e.record,
        id=lambda e: e.id,
        name=_NOUNS[only],
        spare=("AT",),
    )
    if not out.json:
        _tell_remedies(out, found)


def _newest(connection: Connection, wanted: str | None, limit: int) -> list[Entry]:
    from vidan.services import dead_letters, scenarios

    found: list[Entry] = []
    if wanted != "scenario":
        found += map(_of_letter, dead_letters.find(connection, limit=limit))
    if wanted != "message":
        found += map(_of_scenario, scenarios.failed_lately(connection, limit=limit))
    found.sort(key=lambda entry: entry.at.timestamp() if entry.at else 0.0, reverse=True)
    return found[:limit]


def _tell_remedies(out: Output, found: list[Entry]) -> None:
    """Say which commands show and fix the newest of each kind."""
    for of_kind, remedy in (
        ("message", "a message: `vidan dead show {0}`, `vidan dead replay {0}`"),
        ("scenario", "a scenario: `vidan scenario history {0}`, `vidan scenario retry {0}`"),
    ):
        first = next((entry.id for entry in found if entry.kind == of_kind), None)
        if first is not None:
            out.note(remedy.format(first))


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
        int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="Id of the message.")
    ],
) -> None:
    """Show one unreadable message with its payload."""
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import dead_letters

        found = dead_letters.get(connection, letter_id)
    out.details({"kind": "message", **found.as_json()}, id=found.id)


commands.include(steer.commands)
