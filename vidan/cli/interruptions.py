"""Ctrl-C and SIGTERM of a command, as exceptions that get through."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from vidan.cli.failures import INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


class Terminated(SystemExit):
    """SIGTERM has come."""


_SIGNALS: dict[type[BaseException], signal.Signals] = {
    Terminated: signal.SIGTERM,
    KeyboardInterrupt: signal.SIGINT,
}

_CALLBACK_SECONDS = 0.05
"""More than a callback of the interpreter's takes to end."""


@contextmanager
def raised() -> Iterator[None]:
    """Have SIGTERM raise Terminated, as Ctrl-C raises KeyboardInterrupt, and let none be lost.

    What is raised in a callback of the interpreter's own, as that of an import's lock, is printed
    and dropped: then the signal is given again, and comes after the callback.
    """
    handler = signal.signal(signal.SIGTERM, _terminated)
    hook = sys.unraisablehook

    def dropped(lost: UnraisableHookArgs) -> None:
        number = _SIGNALS.get(lost.exc_type)
        if number is None:
            hook(lost)
        else:
            threading.Thread(target=_give_again, args=(number,), daemon=True).start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, handler)


def code_of(error: BaseException | None) -> int | None:
    """The exit code, if an interruption caused the error: one of a class in the making is wrapped.

    None if it was none.
    """
    while error is not None:
        if isinstance(error, Terminated):
            return TERMINATED
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        error = error.__cause__
    return None


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(TERMINATED)


def _give_again(number: signal.Signals) -> None:
    time.sleep(_CALLBACK_SECONDS)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)
