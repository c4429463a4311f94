"""`vidan up`: the embedded stack and workers, in the foreground."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vidan.cli import connect, failures
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
from vidan.cli.own_workers import OwnWorkers
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import DEFAULT_QUEUE

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.domain.worker import WorkerOptions
    from vidan.stack import Membership

CHECK_SECONDS = 0.5
"""Pause between two checks of the stack and the workers, in seconds."""

commands = Commands("up")


@commands.command(
    "up",
    quiet=False,
    database=False,
    examples="""
        vidan up                             then, in another shell: vidan scenario create a.mp4
        vidan up --cpus 2 --queues default,night
        vidan up --app shop.tasks:app
    """,
)
def up(
    out: Output,
    settings: Settings,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    slots: SlotsOption = 1,
    queues: QueuesOption = DEFAULT_QUEUE,
    app: AppOption = None,
    max_frames_per_child: MaxFramesOption = None,
    log_json: LogJsonOption = False,
) -> int:
    """Run PostgreSQL, a broker, an orchestrator and workers in the foreground, until Ctrl-C.

    Other vidan commands of the same user find this stack by themselves. Its addresses are printed
    on stdout for other programs.
    """
    from vidan import stack

    settings = log_settings(settings, out, log_json)
    if settings.log_json:
        from vidan import logs

        logs.configure(settings, "up")
        out = replace(out, logs=True)
    posts = devices.posts(
        gpus,
        cpus,
        slots=slots,
        queues=devices.queue_names(queues),
        app=app or settings.app,
        max_frames_per_child=max_frames_per_child,
    )
    connect.note_unused(settings, out, "up")
    with stack.join(settings, on_progress=out.note) as member:
        try:
            _serve(out, member, posts)
        except KeyboardInterrupt:
            out.note("stopping; Ctrl-C again ends at once")
        return failures.INTERRUPTED


def _serve(out: Output, member: Membership, posts: Sequence[WorkerOptions]) -> None:
    """Keep the stack and the workers running until interrupted."""
    with OwnWorkers(member.settings, posts) as workers:
        _announce(out, member)
        address = member.settings.bootstrap_servers()
        told = False
        while True:
            time.sleep(CHECK_SECONDS)
            member.check()
            if workers.check():
                out.warn("the workers' supervisor died and was started again")
            if workers.left and not told:
                told = True
                out.warn(
                    "the workers have left, since they were drained or stopped; `vidan worker`"
                    " starts new ones"
                )
            now = member.settings.bootstrap_servers()
            if now is not None and now != address:
                out.warn(f"the broker has a new address: {now}")
                address = now


def _announce(out: Output, member: Membership) -> None:
    url, servers = member.settings.require_database(), member.settings.bootstrap_servers()
    text = f"DATABASE_URL={url}\nKAFKA_BOOTSTRAP_SERVERS={servers}"
    out.line({"database_url": url, "bootstrap_servers": servers}, text, id=url)
    out.flush()
    out.note(
        "the stack is up; try `vidan scenario create VIDEO`. Ctrl-C stops it, unless others use it"
    )
