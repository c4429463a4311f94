"""`vidan dead`: messages that could not be read, and scenarios that have failed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, listing
from vidan.cli.command import Commands
from vidan.cli.commands.dead import steer
from vidan.cli.options.filters import moment
from vidan.cli.options.params import AllRowsOption, LimitOption, before, kind
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import MAX_ID, PAGE

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
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
    since: Annotated[
        Any,
        typer.Option(
            "--since",
            metavar="D",
            parser=before,
            help="Only what came or failed this long ago or later, e.g. 2h, 7d or 2026-11-01.",
        ),
    ] = None,
    limit: LimitOption = None,
    all: AllRowsOption = False,
) -> None:
    """List unreadable messages and failed scenarios, the newest first.

    A terminal shows 50 and says how many more there are. In a pipe, and with --quiet or --json, all
    are printed, unless --limit is given.

    `vidan dead replay` sends a message again; messages behind it were not held up. `vidan scenario
    retry` resumes a failed scenario. In a pipe: id, kind, origin, time, error, separated by tabs.
    With --quiet, prints message ids; for scenarios add --kind scenario.
    """
    wanted = only or ("message" if out.quiet and not out.json else None)
    most = listing.most(out, limit, all)
    newest: dict[str, int] = {}
    with connect.database(settings, out, reads=True) as database:
        with database.begin() as connection:
            begin = moment(connection, since)
        _print(out, _noting(newest, _entries(database, wanted, begin, most)), only, most)
    if not out.json:
        _tell_remedies(out, newest)


def _print(out: Output, found: Iterator[Entry], only: str | None, most: int | None) -> None:
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
        most=most,
    )


def _entries(
    database: Database, wanted: str | None, begin: datetime | None, most: int | None
) -> Iterator[Entry]:
    """Yield the entries of the listing, the newest first, read page by page."""
    from vidan.domain.status import Status
    from vidan.services.filters import Filters, Order

    kinds: list[Iterator[Entry]] = []
    if wanted != "scenario":
        kinds.append(map(_of_letter, _letters(database, most)))
    if wanted != "message":
        failed = Filters(status=[Status.FAILED])
        kinds.append(map(_of_scenario, listing.scenarios(database, failed, Order("ended"), None)))
    for entry in heapq.merge(*kinds, key=_time, reverse=True):
        if begin is None or (entry.at is not None and entry.at >= begin):
            yield entry


def _letters(database: Database, most: int | None) -> Iterator[DeadLetter]:
    from vidan.services import dead_letters

    size = PAGE if most is None else min(PAGE, most + 1)
    last: int | None = None
    while True:
        with database.begin() as connection:
            page = dead_letters.find(connection, limit=size, after_id=last)
        yield from page
        if len(page) < size:
            return
        last = page[-1].id


def _time(entry: Entry) -> float:
    return entry.at.timestamp() if entry.at else 0.0


def _noting(newest: dict[str, int], entries: Iterator[Entry]) -> Iterator[Entry]:
    """Yield the entries, and note the id of the first of each kind."""
    for entry in entries:
        newest.setdefault(entry.kind, entry.id)
        yield entry


def _tell_remedies(out: Output, newest: Mapping[str, int]) -> None:
    """Say which commands show and fix the newest of each kind."""
    for of_kind, remedy in (
        ("message", "a message: `vidan dead show {0}`, `vidan dead replay {0}`"),
        ("scenario", "a scenario: `vidan scenario history {0}`, `vidan scenario retry {0}`"),
    ):
        if of_kind in newest:
            out.note(remedy.format(newest[of_kind]))


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
