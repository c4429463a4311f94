"""`vidan top`: workers, queues and running scenarios, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, following
from vidan.cli.command import Commands
from vidan.cli.commands.top import view
from vidan.cli.options.params import duration
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import to_json
from vidan.errors import UsageError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.overview import Overview

MIN_INTERVAL = 0.2
"""Shortest time between two updates, in seconds."""

commands = Commands("top")


@commands.command(
    "top",
    quiet=False,
    examples="""
        vidan top
        vidan top --interval 5
        vidan top --once
        vidan top --once --json | jq '.queues[] | select(.waiting > 100)'
    """,
)
def top(
    out: Output,
    settings: Settings,
    interval: Annotated[
        Any,
        typer.Option(
            "--interval", metavar="D", parser=duration, help="Time between updates: 2, 0.5s, 1m."
        ),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print the state once and end.")] = False,
) -> None:
    """Show workers, queues and running scenarios with their speed, live.

    A worker measures its fps itself. A scenario's fps is counted over the last ten seconds; the
    first update shows it only for a scenario that is alone on its worker. FAILED counts the last
    hour. Counts end at 10000. In a pipe the current state is printed once, as with --once; with
    --json one object per update. q ends the display; Ctrl-C ends it with exit code 130.
    """
    if interval < MIN_INTERVAL:
        raise UsageError(f"--interval {interval} is below {MIN_INTERVAL} s")
    with connect.database(settings, out, reads=True, follows=True) as database:
        rates = view.Rates()
        if out.json:
            _print_json(database, out, rates, interval, once=once)
        elif once or not out.terminal:
            _print_plain(_read(database, out), rates)
        else:
            _show_live(database, out, rates, interval)


def _read(database: Database, out: Output) -> Overview:
    from vidan.services import overview

    def read() -> Overview:
        with database.begin() as connection:
            return overview.read(connection)

    return following.patiently(read, out)


def _print_json(
    database: Database, out: Output, rates: view.Rates, interval: float, *, once: bool
) -> None:
    while True:
        found = _read(database, out)
        rates.note(found)
        sys.stdout.write(to_json(view.as_json(found, rates)) + "\n")
        out.flush()
        if once:
            return
        time.sleep(interval)


def _print_plain(found: Overview, rates: view.Rates) -> None:
    rates.note(found)
    console = view.console()
    words = console.is_terminal
    console.print(view.view(found, rates, console.width, height=None, words=words))


def _show_live(database: Database, out: Output, rates: view.Rates, interval: float) -> None:
    from rich.live import Live

    from vidan.cli.terminal.keys import Keys

    console = view.console()
    found = _read(database, out)
    rates.note(found)

    def shown() -> Any:
        return view.view(found, rates, console.width, height=console.height)

    with Keys() as keys, Live(shown(), console=console, screen=True, auto_refresh=False) as live:
        while not keys.pressed("q", within=interval):
            found = _read(database, out)
            rates.note(found)
            live.update(shown(), refresh=True)
