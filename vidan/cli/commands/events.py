"""`vidan events`: each change of a scenario's status, as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, following
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.options.params import StatusOption, TaskOption, before
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import for_people, plain, to_json
from vidan.domain.bounds import MAX_ID

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.events import Event, Page, Position, Wanted

commands = Commands("events")


@commands.command(
    "events",
    examples="""
        vidan events
        vidan events --since 1h --no-follow | jq -r .to | sort | uniq -c
        vidan events --status failed | jq -r '"\\(.scenario_id) \\(.reason)"'
        vidan events --scenario 42 --since 7d
        vidan events --task detect --status completed --limit 1 -q
    """,
)
def events(
    out: Output,
    settings: Settings,
    since: Annotated[
        Any,
        typer.Option(
            "--since",
            metavar="D",
            parser=before,
            help="Begin this long ago (10m, 2h, 7d) or at this time; by default now.",
        ),
    ] = None,
    task: TaskOption = None,
    status: StatusOption = None,
    scenario: Annotated[
        int | None,
        typer.Option(
            "--scenario",
            metavar="ID",
            min=1,
            max=MAX_ID,
            autocompletion=completion.scenarios,
            help="Only this scenario.",
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", help="Wait for new events, or end after stored ones."),
    ] = True,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="End after N events.")
    ] = None,
) -> None:
    """Print each change of a scenario's status, as it happens.

    In a pipe (and with --json) one JSON object per line: id, at, scenario_id, from, to, reason,
    actor, task, queue, name, source; --quiet prints the scenarios' ids. --status selects the status
    that a scenario changed to. Each change is printed exactly once. A change made in a long
    transaction appears when the transaction has ended, after changes that were made later. With
    --no-follow and without --since it prints all changes that are stored. Ctrl-C ends it with 130.
    """
    from vidan.services.events import Wanted

    with connect.database(settings, out, reads=True, follows=True) as database:
        if scenario is not None:
            following.patiently(lambda: following.read_all(database, [scenario]), out)
        start, at = following.patiently(lambda: _start(database, since, follow=follow), out)
        wanted = Wanted(task=task, status=status, scenario_id=scenario, since=at)
        left = limit
        for found in _pages(database, out, start, wanted, follow=follow):
            chosen = found if left is None else found[:left]
            _print(out, chosen)
            if left is not None and (left := left - len(chosen)) == 0:
                break


def _start(
    database: Database, since: datetime | timedelta | None, *, follow: bool
) -> tuple[Position, datetime | None]:
    """Return the position to read from, and the time before which events are left out."""
    from vidan.services import events

    with database.begin() as connection:
        if since is None:
            return (events.now(connection) if follow else events.Position()), None
        at = since if isinstance(since, datetime) else events.moment(connection, since)
        return events.since(connection, at), at


def _pages(
    database: Database, out: Output, start: Position, wanted: Wanted, *, follow: bool
) -> Iterator[Sequence[Event]]:
    from vidan.services import events

    position = start

    def read_page() -> Page:
        with database.autocommit() as connection:
            return events.read(connection, position, wanted)

    while True:
        page = following.patiently(read_page, out)
        position = page.position
        yield page.events
        if page.more:
            continue
        if not follow:
            return
        time.sleep(following.POLL_SECONDS)


def _print(out: Output, found: Sequence[Event]) -> None:
    for event in found:
        people = out.terminal and not out.json
        text = _for_people(event) if people else to_json(event.as_json())
        out.line(event.as_json() if out.json else {}, text, id=event.scenario_id)
    out.flush()


def _for_people(event: Event) -> str:
    """Return `<time>  42  detect  running → completed  cpu-0@host  the task returned`."""
    change = f"{for_people(event.from_status)} → {for_people(event.to_status)}"
    why = [plain(event.actor), plain(event.reason)]
    words = [
        for_people(event.at),
        f"{event.scenario_id:>6}",
        f"{plain(event.task):<10}",
        f"{change:<20}",
        *why,
    ]
    return "  ".join(words).rstrip(" -")
