"""The command `vidan`: the list of its commands, and how each of them ends.

A command's module is imported only when the command is called, so that `vidan --help` stays quick.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from vidan import __version__
from vidan.cli import failures, interruptions
from vidan.cli.command import (
    CONTEXT,
    DebugFlag,
    Flags,
    Group,
    JsonFlag,
    QuietFlag,
    note_flags,
)

ANALYSE, INSPECT, SERVE = "Analyse videos", "Inspect and manage", "Run services"


@dataclass(frozen=True)
class Entry:
    """A command of the first level: its section in the help, its summary, its module."""

    section: str
    summary: str
    module: str


COMMANDS = {
    "run": Entry(ANALYSE, "Analyse a video on this machine and print a summary.", "run.command"),
    "scenario": Entry(ANALYSE, "Create, follow, start and stop scenarios.", "scenario.group"),
    "predictions": Entry(
        ANALYSE, "Show, follow, find, export and draw detections.", "predictions.group"
    ),
    "top": Entry(INSPECT, "Show workers, queues and running scenarios live.", "top.command"),
    "events": Entry(INSPECT, "Print each change of a scenario's status as it happens.", "events"),
    "doctor": Entry(
        INSPECT, "Show what works here, what doesn't, and how to fix it.", "doctor.command"
    ),
    "workers": Entry(
        INSPECT, "Show workers, change their slots, drain or stop them.", "workers.group"
    ),
    "tasks": Entry(INSPECT, "Show tasks and their parameters.", "tasks"),
    "schedules": Entry(INSPECT, "Show, pause and resume scheduled tasks.", "schedules"),
    "models": Entry(INSPECT, "Show the detection models.", "models"),
    "dead": Entry(
        INSPECT, "Failed scenarios and unreadable messages; resend messages.", "dead.group"
    ),
    "up": Entry(SERVE, "Run the whole stack on this machine; it needs no other service.", "up"),
    "worker": Entry(SERVE, "Run workers, one process per device.", "worker"),
    "orchestrator": Entry(
        SERVE, "Run an orchestrator: it announces and requeues scenarios.", "orchestrator"
    ),
    "api": Entry(SERVE, "Run the HTTP interface.", "api"),
    "db": Entry(SERVE, "Upgrade and check the database schema, drop old predictions.", "db.group"),
    "topics": Entry(SERVE, "Create and list the Kafka topics.", "topics"),
}

ALIASES = {
    "scenarios": "scenario",
    "prediction": "predictions",
    "task": "tasks",
    "schedule": "schedules",
    "model": "models",
    "topic": "topics",
    "event": "events",
}
"""Hidden names: a singular for each plural, and a plural for each singular."""

COLLECT_AFTER = 20_000
"""New objects after which garbage is collected. What imports make is no garbage: with Python's own
700, looking through it takes a tenth of a short command's time."""

EXAMPLES = """
vidan run --sample                          analyse the video in the package
vidan run street.mp4 --out results          analyse yours: predictions.jsonl, annotated.mp4
vidan up                                    start the stack that the commands below use
vidan scenario create street.mp4 --wait     queue a video, wait for the result
vidan predictions watch 1                   print detections as they are stored
vidan doctor                                show what works here and what doesn't
"""


class Commands(Group):
    """The first level: it reads `COMMANDS`, and imports the one command that is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, for completion."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Import the command of this name; None if there is none."""
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        return None if entry is None else _built(entry, ())

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command that `args` begin with; the error of a typo names similar commands."""
        name, rest = args[0], args[1:]
        if name == "worker" and _means_workers(rest):
            name = "workers"
        entry = COMMANDS.get(ALIASES.get(name, name))
        command = None if entry is None else _built(entry, rest)
        if command is None:
            from vidan.suggestions import close_names

            close = close_names(name, COMMANDS)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"no such command {name!r}{guess}")
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands section by section, without importing them."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name, e.summary) for name, e in COMMANDS.items() if e.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


def _built(entry: Entry, rest: Sequence[str]) -> Any:
    """Import a command; of a group only that one is made whose name comes first in `rest`."""
    commands = import_module(f"vidan.cli.commands.{entry.module}").commands
    return commands.build(only=rest[0] if rest else None)


def _means_workers(rest: list[str]) -> bool:
    """Whether `vidan worker …` means `vidan workers …`, as in `worker list`."""
    words = [word for word in rest if not word.startswith("-")]
    return words[:1] in (["list"], ["show"], ["drain"], ["stop"], ["scale"])


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"vidan {__version__}\n")
        raise typer.Exit


app = typer.Typer(
    name="vidan",
    cls=Commands,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EXAMPLES,
)


@app.callback()
def _vidan(
    ctx: typer.Context,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Detect objects in videos, as durable runs on any number of machines."""
    note_flags(ctx, json=json, quiet=quiet, debug=debug)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (the process's own by default); returns the exit code."""
    _open_what_is_closed()
    gc.set_threshold(COLLECT_AFTER)
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with interruptions.raised():
            code = _run(args)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has closed it: `vidan … | head -1`
        code = 0
        _drop_stdout()
    except OSError as error:  # the last lines did not fit on the disk
        code = failures.report(error, json=failures.asks_for(args, "--json"), debug=False)
        _drop_stdout()
    return code


def _drop_stdout() -> None:
    """Let what is still to be written go nowhere: the interpreter would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_what_is_closed() -> None:
    """Open /dev/null for stdin, stdout and stderr that are closed, here and in child processes.

    Without it the next file or connection opened would get the descriptor 0, 1 or 2, and output
    meant for stdout or stderr would be written to that.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = Path(os.devnull).open(mode)  # noqa: SIM115
            os.set_inheritable(opened.fileno(), opened.fileno() == fd)
            setattr(sys, name, opened)


def _run(args: list[str]) -> int:
    flags = Flags(
        json=failures.asks_for(args, "--json", "--log-json"),
        debug=failures.asks_for(args, "--debug"),
    )
    try:
        _call(args)
        return 0
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return failures.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        interrupted = interruptions.code_of(error)
        if interrupted is not None:
            return interrupted
        return failures.report(error, json=flags.json, debug=flags.debug)


def _call(args: list[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        # file names may hold bytes that are not text
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    if os.environ.get("_VIDAN_COMPLETE"):
        app(prog_name="vidan")
    command = typer.main.get_command(app)
    with command.make_context("vidan", args, obj=Flags()) as ctx:
        command.invoke(ctx)
