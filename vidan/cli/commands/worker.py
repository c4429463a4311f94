"""`vidan worker`: a supervisor and its workers, one process per device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.options import devices
from vidan.cli.options.devices import (
    AppOption,
    CpusOption,
    GpusOption,
    MaxFramesOption,
    QueuesOption,
    SlotsOption,
)
from vidan.cli.options.log import LogJsonOption, log_settings
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import DEFAULT_QUEUE

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands("worker")


@commands.command(
    "worker",
    json=False,
    quiet=False,
    broker=True,
    examples="""
        vidan worker                                 all GPUs, or one process on the CPU
        vidan worker --cpus 4 --queues default,night
        vidan worker --gpus 0,1 --slots 2 --app shop.tasks:app
        vidan worker --name worker_1 --source video.mp4
        vidan worker --max-frames-per-child 500000 --log-json 2>> worker.log
    """,
)
def worker(
    out: Output,
    settings: Settings,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    slots: SlotsOption = 1,
    queues: QueuesOption = DEFAULT_QUEUE,
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="Name of the worker [device@host].")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="FILE", help="Use this video for scenarios created without one."
        ),
    ] = None,
    app: AppOption = None,
    max_frames_per_child: MaxFramesOption = None,
    log_json: LogJsonOption = False,
) -> int:
    """Run workers until stopped: one process per GPU, or N processes on the CPU.

    By default it uses all GPUs, or one process on the CPU if there is none. On SIGTERM or Ctrl-C
    the running scenarios are requeued at their checkpoint, for other workers; a second signal ends
    the workers at once. From any machine, `vidan workers stop` does the same, and `vidan workers
    drain` lets the running scenarios finish first.
    """
    from vidan.video.sources import source_for

    settings = log_settings(settings, out, log_json)
    wanted = devices.posts(
        gpus,
        cpus,
        name=name,
        slots=slots,
        queues=devices.queue_names(queues),
        source=None if source is None else source_for(source, check=True),
        app=app or settings.app,
        max_frames_per_child=max_frames_per_child,
    )
    connect.tell(settings, out)
    from vidan import logs
    from vidan.supervisor import supervisor

    logs.configure(settings, "supervisor")
    return supervisor.supervise(settings, wanted)
