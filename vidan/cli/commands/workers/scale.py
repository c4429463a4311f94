"""`vidan workers scale`: change how many scenarios a running worker runs at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect, failures
from vidan.cli.command import Commands
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted
from vidan.domain.worker import MAX_SLOTS
from vidan.errors import NotAllowedError, NotFoundError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.services.scaling import Scaled
    from vidan.services.workers import WorkerRow


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
        typer.Argument(metavar="WORKER...", help="Names or ids; of a name all that are there."),
    ],
    slots: Annotated[
        int,
        typer.Argument(metavar="N", min=1, max=MAX_SLOTS, help="How many slots each is to have."),
    ],
) -> int:
    """Let running workers have N slots: run up to N scenarios at once, each.

    They learn of it within 5 s. With fewer, what runs comes to its end first. A process that is
    started again by its supervisor keeps the number; a new `vidan worker` has its own. Exit code 4:
    a worker is leaving, or is gone.
    """
    code = 0
    with connect.database(settings, out) as database:
        from vidan.services import scaling

        asked: list[Scaled] = []
        for name in dict.fromkeys(workers):
            try:
                asked += database.retrying(lambda c, n=name: scaling.scale(c, n, slots))  # type: ignore[misc]
            except (NotAllowedError, NotFoundError) as error:
                if len(workers) == 1:
                    raise
                refused = failures.report(error, json=out.json, debug=out.debug)
                code = code or refused
    for one in asked:
        worker = one.worker
        out.line(worker.as_json(), f"{worker.name}\t{shown(worker)}", id=worker.id)
        already = "" if one.changed else " (asked for already)"
        out.note(f"worker {worker.name} is to have {counted(slots, 'slot')}{already}")
    return code


def shown(worker: WorkerRow) -> str:
    """Return how many slots it has and, while they differ, how many it is to have."""
    wanted = worker.desired_slots
    return str(worker.slots) if wanted in (None, worker.slots) else f"{worker.slots} → {wanted}"
