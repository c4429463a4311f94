"""`vidan workers drain|stop`: end workers, from any machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from vidan.cli import connect, failures, following
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.options.params import TimeoutOption
from vidan.cli.terminal.output import Output
from vidan.domain.status import DesiredState
from vidan.errors import NotAllowedError, NotFoundError, UsageError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.workers import Retired

POLL_SECONDS = 0.5
"""Pause between two checks whether the workers have ended, in seconds."""

Workers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[WORKER]...",
        autocompletion=completion.workers,
        help="Names or ids; a name means all workers with it.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="All running workers.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the workers have ended.")]

_SAYS = {
    DesiredState.DRAINED: "takes no new scenarios and ends when its running ones have ended",
    DesiredState.STOPPED: "requeues its running scenarios and ends",
}


commands = Commands("workers")


@commands.command(
    "drain",
    examples="""
        vidan workers drain gpu-0@host                 before the machine is serviced
        vidan workers drain gpu-0@host gpu-1@host --wait --timeout 2h
        vidan workers list -q | xargs -r vidan workers drain
    """,
)
def drain(
    out: Output,
    settings: Settings,
    workers: Workers = None,
    all: AllOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Drain workers: they take no new scenarios, finish the running ones, and end.

    They begin within 5 s and are not restarted; a supervisor whose workers have all ended ends too.
    Exit code 4: a worker is gone already; 7: timed out waiting, and the workers continue to drain.
    """
    return _retire(out, settings, DesiredState.DRAINED, workers, all, wait, timeout)


@commands.command(
    "stop",
    examples="""
        vidan workers stop gpu-0@host
        vidan workers stop --all --wait --timeout 1m
    """,
)
def stop(
    out: Output,
    settings: Settings,
    workers: Workers = None,
    all: AllOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Stop workers: they requeue their running scenarios at the checkpoint, and end.

    Other workers resume the scenarios; no retry is used up. It does what SIGTERM does, from any
    machine. The workers begin within 5 s and are not restarted. A draining worker can be stopped
    too. Exit code 4: a worker is gone already; 7: timed out waiting.
    """
    return _retire(out, settings, DesiredState.STOPPED, workers, all, wait, timeout)


def _retire(
    out: Output,
    settings: Settings,
    to: DesiredState,
    named: list[str] | None,
    everyone: bool,
    wait: bool,
    timeout: float | None,
) -> int:
    if bool(named) == everyone:
        problem = "names and --all exclude each other" if named else "no worker is named"
        raise UsageError(problem, hint="give names or ids (`vidan workers list`), or --all")
    if timeout is not None and not wait:
        raise UsageError("--timeout goes with --wait", hint="add --wait")
    with connect.database(settings, out, follows=wait) as database:
        code, retired = _ask(database, out, named, to)
        for one in retired:
            worker = one.worker
            out.line(worker.as_json(), f"{worker.name}\t{worker.state}", id=worker.id)
            already = "" if one.changed else " (already requested)"
            out.note(f"worker {worker.name} {_SAYS[worker.desired_state]}{already}")
        if not retired and code == 0:
            out.note("no worker is running")
        out.flush()
        if wait and not _wait(database, out, [one.worker.id for one in retired], timeout):
            return following.TIMED_OUT
    return code


def _ask(
    database: Database, out: Output, named: list[str] | None, to: DesiredState
) -> tuple[int, list[Retired]]:
    """Ask each worker; a refusal is reported and does not stop the others."""
    from vidan.services import workers

    if named is None or len(named) <= 1:
        return 0, database.retrying(workers.retire, named or None, to)
    code, asked = 0, []
    for name in dict.fromkeys(named):
        try:
            asked += database.retrying(workers.retire, [name], to)
        except (NotAllowedError, NotFoundError) as error:
            refused = failures.report(error, json=out.json, debug=out.debug)
            code = code or refused
    return code, asked


def _wait(database: Database, out: Output, ids: Sequence[UUID], timeout: float | None) -> bool:
    """Wait until the processes of the workers have ended; return whether they have."""
    from vidan.services import workers

    until = None if timeout is None else time.monotonic() + timeout

    def remaining() -> list[workers.WorkerRow]:
        with database.begin() as connection:
            return workers.living_in_process_of(connection, ids)

    while there := following.patiently(remaining, out):
        if until is not None and time.monotonic() > until:
            names = ", ".join(one.name for one in there)
            out.warn(f"timed out: {names} still running; they will end later")
            return False
        time.sleep(POLL_SECONDS)
    if ids:
        out.note("all have ended")
    return True
