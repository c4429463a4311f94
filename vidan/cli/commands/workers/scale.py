"""`vidan workers scale`: change how many scenarios a running worker runs at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect, failures
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted
from vidan.domain.worker import MAX_SLOTS
from vidan.errors import NotAllowedError, NotFoundError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.services.workers import Scaled, WorkerRow


commands = Commands("workers")


@commands.command(
    "scale",
    examples="""
        vidan workers scale gpu-0@host 8
        vidan workers scale gpu-0@host gpu-1@host 2
        vidan workers list -q | xargs -I ID vidan workers scale ID 4
    """,
)
def scale(
    out: Output,
    settings: Settings,
    workers: Annotated[
        list[str],
        typer.Argument(
            metavar="WORKER...",
            autocompletion=completion.workers,
            help="Names or ids; a name means all workers with it.",
        ),
    ],
    slots: Annotated[
        int,
        typer.Argument(metavar="N", min=1, max=MAX_SLOTS, help="Number of slots for each worker."),
    ],
) -> int:
    """Set how many scenarios each of these running workers runs at once, N.

    The change takes effect within 5 s. With fewer slots, running scenarios end first. A process
    restarted by its supervisor keeps the number; a new `vidan worker` starts with its own. Exit
    code 4: a worker is leaving or is gone.
    """
    code = 0
    with connect.database(settings, out) as database:
        from vidan.services.workers import scale as ask_for_slots

        asked: list[Scaled] = []
        for name in dict.fromkeys(workers):
            try:
                asked += database.retrying(ask_for_slots, name, slots)
            except (NotAllowedError, NotFoundError) as error:
                if len(workers) == 1:
                    raise
                refused = failures.report(error, json=out.json, debug=out.debug)
                code = code or refused
    for one in asked:
        worker = one.worker
        out.line(worker.as_json(), f"{worker.name}\t{shown(worker)}", id=worker.id)
        already = "" if one.changed else " (already requested)"
        out.note(f"worker {worker.name} will have {counted(slots, 'slot')}{already}")
    return code


def shown(worker: WorkerRow) -> str:
    """Return how many slots a worker has and, while they differ, how many it will have."""
    wanted = worker.desired_slots
    return str(worker.slots) if wanted in (None, worker.slots) else f"{worker.slots} → {wanted}"
