"""`vidan worker`: a supervisor and its workers, one process a device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect, devices
from vidan.cli.command import Commands
from vidan.cli.devices import AppOption, CpusOption, GpusOption, QueuesOption, SlotsOption
from vidan.cli.output import Output
from vidan.cli.scenario_create import source_for

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands("worker")


@commands.command(
    "worker",
    json=False,
    quiet=False,
    broker=True,
    examples="""
        vidan worker                                 all GPUs, or one CPU process
        vidan worker --cpus 4 --queues default,night
        vidan worker --gpus 0,1 --slots 2 --app shop.tasks:app
        vidan worker --name worker_1 --source video.mp4
    """,
)
def worker(
    out: Output,
    settings: Settings,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    slots: SlotsOption = 1,
    queues: QueuesOption = "default",
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="Its name; by default by device.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="FILE", help="Take scenarios without a source for this."),
    ] = None,
    app: AppOption = None,
) -> int:
    """Run workers until stopped: a process for each GPU, or N processes on the CPU.

    SIGTERM or Ctrl-C: what runs is put back at its checkpoint, for other workers. A second one ends
    at once.
    """
    wanted = devices.posts(
        gpus,
        cpus,
        name=name,
        slots=slots,
        queues=devices.queue_names(queues),
        source=None if source is None else source_for(source, check=True),
        app=app or settings.app,
    )
    connect.tell(settings, out)
    from vidan import logs, supervisor

    logs.configure(json=settings.log_json, level=logging.DEBUG if out.debug else logging.INFO)
    return supervisor.supervise(settings, wanted)
