"""What a forked child must not keep of a process: its signal handlers and its loops.

Libraries fork in the middle of a task: multiprocessing, a Pool, a DataLoader. The child is a copy
of the process with one thread, the one that forked. A handler that only sets a flag would make it
deaf to `terminate`, and a child that came back from the task would go on as a second worker.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, NoReturn

Handler = Callable[[int, FrameType | None], None]

_held = threading.local()


def handle(numbers: Iterable[int], handler: Handler) -> None:
    """Install a signal handler that no forked child keeps: a child gets the handlers from before.

    Called once, in the main thread. The signals wait while a thread forks, so that none reaches a
    child that still has this process's handler.
    """
    former: dict[int, Any] = {}
    for number in numbers:
        before = signal.signal(number, handler)
        former[number] = signal.SIG_DFL if before is None else before

    def hold() -> None:
        _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, former)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)

    def give_back() -> None:
        for number, before in former.items():
            signal.signal(number, before)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=give_back)


class Contained:
    """A block that runs code of a user's: a child that is forked in it ends where the block ends.

    The child ends as a program would: with 1 and a traceback after an error, with the code of a
    SystemExit, else with 0. The process id tells the child also where native code has forked.
    """

    __slots__ = ("_process",)

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._process:
            end_child(error)


def end_child(error: BaseException | None) -> NoReturn:
    """End a forked child here, without the cleaning up that is its parent's."""
    code = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            code = (error.code or 0) & 0xFF
        elif error is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
