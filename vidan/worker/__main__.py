"""`python -m vidan.worker`: started by a supervisor, ended by SIGTERM or with the supervisor."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from types import FrameType
from uuid import UUID

from vidan import config, logs
from vidan.domain.worker import MAX_SLOTS, WorkerOptions
from vidan.errors import HOPELESS_EXIT_CODES, RETIRED_EXIT_CODE, DeviceLost, VidanError
from vidan.processes import forks, lifeline
from vidan.processes.slotboard import Ended, SlotBoard
from vidan.tasks import blame
from vidan.tasks.loading import load_tasks
from vidan.worker.log_keeper import LogKeeper
from vidan.worker.worker import Worker

log = logging.getLogger("vidan.worker")

ORPHAN_SECONDS = 30.0
"""Longest time, in seconds, that a worker's hand-over may take once its supervisor is gone."""


def main(argv: list[str] | None = None) -> int:
    """Run a worker until SIGTERM, or until its supervisor is gone. Returns the exit code."""
    arguments = _parse(argv)
    options: WorkerOptions = arguments.options
    orphan = _Orphan()
    lifeline.watch(orphan.end)
    settings = config.load()
    logs.configure(settings, "worker")
    logs.log_prints()
    board = None if arguments.board is None else _board(arguments.board)
    try:
        if options.device != "cpu":
            from vidan.detection.device import require

            require(options.device)
        with nullcontext() if board is None else board.loading():
            tasks = load_tasks(options.app)
        worker = Worker(settings, options, tasks, board, arguments.replaces)
    except DeviceLost as error:  # the device may come back: the supervisor tries again
        log.error("%s", error)
        return 1
    except VidanError as error:
        trace = None if error.__cause__ is None else blame.trace(error.__cause__)
        log.error("%s", f"{error}; {error.hint}" if error.hint else error, extra={"trace": trace})
        if board is not None and error.exit_code in HOPELESS_EXIT_CODES:
            board.ended = Ended.HOPELESS
        return error.exit_code

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stopping = True

    forks.handle((signal.SIGTERM, signal.SIGINT), stop)
    orphan.worker = worker
    gc.collect()
    gc.freeze()  # imported objects stay, and each visit of the collector to them takes 30 ms
    with LogKeeper(settings.require_database(direct=True)):
        worker.run()
    if board is not None:
        board.ended = Ended.RETIRED if worker.retired else Ended.LEFT
    return RETIRED_EXIT_CODE if worker.retired else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vidan.worker")
    parser.add_argument("--options", required=True, type=WorkerOptions.from_json)
    parser.add_argument("--board", type=int, help="descriptor of the supervisor's slot board")
    parser.add_argument("--replaces", type=UUID, help="the registration that this process replaces")
    return parser.parse_args(argv)


def _board(fd: int) -> SlotBoard:
    """Return the board, on which no process writes that this one starts."""
    os.set_inheritable(fd, False)
    board = SlotBoard(fd, MAX_SLOTS)
    os.register_at_fork(after_in_child=board.detach)
    return board


@dataclass(slots=True)
class _Orphan:
    """Ends this process when its supervisor is gone, from the process's first moment on."""

    worker: Worker | None = None  # None until it has been made

    def end(self) -> None:
        """Let the worker hand over and exit; end the process if its code or the app's hangs."""
        if self.worker is None:
            os._exit(1)
        self.worker.stopping = True
        time.sleep(ORPHAN_SECONDS)
        os._exit(1)  # no other process is left to do it; the lease ends by itself


if __name__ == "__main__":
    sys.exit(main())
