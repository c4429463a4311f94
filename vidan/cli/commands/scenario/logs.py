"""`vidan scenario logs`: the log lines of a scenario's runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, failures
from vidan.cli.command import Commands
from vidan.cli.options.params import Id
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted, for_people, plain, printable

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.services.scenario_logs import LogLine

commands = Commands("scenario")


LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def level_of(word: str) -> int:
    """Return the number of a level, as Python's logging has it. Raises ValueError."""
    if word.lower() not in LEVELS:
        raise ValueError(f"{word!r} is none of {', '.join(LEVELS)}")
    return LEVELS[word.lower()]


@commands.command(
    "logs",
    quiet=False,
    examples="""
        vidan scenario logs 42
        vidan scenario logs 42 --follow
        vidan scenario logs 42 --level warning --tail 20
        vidan scenario logs 42 --json | jq -r 'select(.epoch == 2) | .message'
    """,
)
def logs(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until the scenario has ended.")
    ] = False,
    level: Annotated[
        Any,
        typer.Option(
            "--level",
            metavar="L",
            parser=level_of,
            help="Only lines of this level and above, e.g. warning.",
        ),
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="N", min=0, help="Begin with the last N lines.")
    ] = None,
) -> int:
    """Print the log lines of a scenario's runs: vidan's, its task's, and what the task prints.

    The last 2,000 lines are kept with the scenario, 1 MiB at most; a note on stderr says how many
    were cut. A line has its time, level, logger and message, a traceback below it. With --json
    each line is an object; `epoch` counts the runs.
    """
    from vidan.services import scenario_logs

    least: int = level or 0
    with connect.database(settings, out, reads=True, follows=follow) as database:
        with database.begin() as connection:
            missing = scenario_logs.cut(connection, scenario_id)
            start = 0
            if tail is not None:
                start = scenario_logs.before_last(connection, scenario_id, tail, level=least)
        if missing:
            out.note(f"{counted(missing, 'line')} of scenario {scenario_id} were cut")
        try:
            for page in scenario_logs.read(
                database, scenario_id, start, level=least, follow=follow
            ):
                for line in page:
                    out.line(line.as_json(), _text(line, terminal=out.terminal), id=line.line)
                out.flush()
        except KeyboardInterrupt:
            return failures.INTERRUPTED
    return 0


def _text(line: LogLine, *, terminal: bool) -> str:
    at = for_people(line.at) if terminal else plain(line.at)
    shown = f"{at} {line.level_name.upper():<7} {line.logger}: {line.message}"
    return printable(shown if line.traceback is None else f"{shown}\n{line.traceback}")
