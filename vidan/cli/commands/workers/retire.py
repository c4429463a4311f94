"""`vidan workers drain|stop`: let workers leave for good."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from vidan.cli import connect, failures, following
from vidan.cli.command import Commands
from vidan.cli.options.params import TimeoutOption
from vidan.cli.terminal.output import Output
from vidan.domain.status import DesiredState
from vidan.errors import NotAllowedError, NotFoundError, UsageError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.workers import Retired

POLL_SECONDS = 0.5

Workers = Annotated[
    list[str] | None,
    typer.Argument(metavar="[WORKER]...", help="Names or ids; of a name all that are there."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All workers that are there.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when they have left.")]

_SAYS = {
    DesiredState.DRAINED: "takes nothing new and leaves when what runs has ended",
    DesiredState.STOPPED: "puts back what runs and leaves",
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
    """Let workers take nothing new, finish what they run, and leave.

    They learn of it within 5 s, and are not started again; a supervisor without a worker ends, too.
    Exit code 4: one is gone already; 7: timed out waiting, the workers go on draining.
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
    """Let workers put back what they run, at its checkpoint, and leave.

    As SIGTERM does, from any machine: others go on with it, and no budget is spent. They learn of
    it within 5 s, and are not started again. One that is draining may be stopped. Exit code 4: a
    worker is gone already, 7: timed out.
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
        raise UsageError("--timeout is for waiting", hint="add --wait")
    with connect.database(settings, out, follows=wait) as database:
        code, retired = _ask(database, out, named, to)
        for one in retired:
            worker = one.worker
            out.line(worker.as_json(), f"{worker.name}\t{worker.state}", id=worker.id)
            already = "" if one.changed else " (asked for already)"
            out.note(f"worker {worker.name} {_SAYS[worker.desired_state]}{already}")
        if not retired and code == 0:
            out.note("there is no worker")
        out.flush()
        if wait and not _wait(database, out, [one.worker.id for one in retired], timeout):
            return following.TIMED_OUT
    return code


def _ask(
    database: Database, out: Output, named: list[str] | None, to: DesiredState
) -> tuple[int, list[Retired]]:
    """Ask each; what is refused is said, and the others are still asked."""
    from vidan.services import workers

    if named is None or len(named) <= 1:
        return 0, database.retrying(lambda c: workers.retire(c, named or None, to))
    code, asked = 0, []
    for name in dict.fromkeys(named):
        try:
            asked += database.retrying(lambda c, n=name: workers.retire(c, [n], to))  # type: ignore[misc]
        except (NotAllowedError, NotFoundError) as error:
            refused = failures.report(error, json=out.json, debug=out.debug)
            code = code or refused
    return code, asked


def _wait(database: Database, out: Output, ids: Sequence[UUID], timeout: float | None) -> bool:
    """Wait until their processes have left; whether they have."""
    from vidan.services import workers

    until = None if timeout is None else time.monotonic() + timeout

    def look() -> list[workers.WorkerRow]:
        with database.begin() as connection:
            return workers.still_there(connection, ids)

    while there := following.patiently(look, out):
        if until is not None and time.monotonic() > until:
            names = ", ".join(one.name for one in there)
            out.warn(f"timed out: still there: {names}; they leave later all the same")
            return False
        time.sleep(POLL_SECONDS)
    if ids:
        out.note("all have left")
    return True
