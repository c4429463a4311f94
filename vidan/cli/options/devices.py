"""The device options of `worker`, `up` and `run`, and the workers that they ask for."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli.options.params import names
from vidan.cli.terminal.text import counted
from vidan.domain.worker import MAX_SLOTS
from vidan.errors import InputRejected, UsageError
from vidan.processes import working_folder

if TYPE_CHECKING:
    from vidan.domain.worker import WorkerOptions

PROCESSES_PER_CORE = 4
"""Most worker processes on processors that are started for each core that may be used."""

GpusOption = Annotated[
    str | None, typer.Option("--gpus", metavar="0,1|all", help="GPUs to use, one process each.")
]
CpusOption = Annotated[
    int | None,
    typer.Option("--cpus", metavar="N", min=1, max=1024, help="Run N single-threaded processes."),
]
QueuesOption = Annotated[
    str, typer.Option("--queues", metavar="A,B", help="Take scenarios from these queues only.")
]
SlotsOption = Annotated[
    int,
    typer.Option(
        "--slots", metavar="N", min=1, max=MAX_SLOTS, help="Scenarios at a time in each process."
    ),
]
AppOption = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:APP", help="App with your own tasks [VIDAN_APP]."),
]

MaxFramesOption = Annotated[
    int | None,
    typer.Option(
        "--max-frames-per-child",
        metavar="N",
        min=1,
        help="Replace a process after N frames, against memory leaks.",
    ),
]


def posts(gpus: str | None, cpus: int | None, **options: Any) -> list[WorkerOptions]:
    """Return the workers that the options ask for, one per device.

    Without a device option there is one for each GPU, or one on the CPU. Raises UsageError, or
    InputRejected for a GPU or an app that does not exist.
    """
    if gpus is not None and cpus is not None:
        raise UsageError("--gpus and --cpus exclude each other", hint="give one of them")
    if gpus not in (None, "all"):
        numbers = str(gpus).split(",")
        if not all(part.isdecimal() and part.isascii() for part in numbers):
            raise UsageError(f"--gpus {gpus} is neither numbers nor all", hint="such as --gpus 0,1")
    if (app := options.get("app")) is not None:
        _check_app(app)
    if cpus is not None:
        _check_cpus(cpus)
    from vidan.supervisor import devices

    return devices.posts(gpus=gpus, cpus=cpus, **options)


def _check_cpus(cpus: int) -> None:
    """Refuse so many processes that the machine would run out of memory before they work."""
    from vidan.detection import cores

    usable = cores.usable(os.cpu_count() or 1)
    if cpus > usable * PROCESSES_PER_CORE:
        raise UsageError(
            f"--cpus {cpus} is too many for {counted(usable, 'core')}",
            hint=f"each is a process; at most {usable * PROCESSES_PER_CORE} can run here",
        )


def _check_app(app: str) -> None:
    """Refuse a word that can't name an app before anything is started; no module is imported.

    Raises UsageError, or InputRejected if there is no such module, or two of its name.
    """
    if re.fullmatch(r"\w+(\.\w+)*:\w+", app) is None:
        raise UsageError(f"--app {app} is not module:app", hint="for example --app shop.tasks:app")
    module = app.partition(":")[0].partition(".")[0]
    if not working_folder.find(module):
        raise InputRejected(
            f"--app {app}: there is no module {module}",
            hint=f"run the command in the folder of {module}, or install {module}",
        )


def queue_names(word: str) -> list[str]:
    """Return the queues in `a,b`. Raises UsageError."""
    try:
        return names(word)
    except ValueError as error:
        raise UsageError(f"--queues: {error}", hint="for example --queues default,night") from None
