"""Ctrl-C and SIGTERM as exceptions, none of which is lost."""

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
    """SIGTERM has arrived."""


_SIGNALS: dict[type[BaseException], signal.Signals] = {
    Terminated: signal.SIGTERM,
    KeyboardInterrupt: signal.SIGINT,
}

_CALLBACK_SECONDS = 0.05
"""Seconds within which any callback of the interpreter itself has ended."""


@contextmanager
def raised() -> Iterator[None]:
    """Have SIGTERM raise Terminated, as Ctrl-C raises KeyboardInterrupt, and lose neither.

    The interpreter prints and drops an exception that is raised in one of its own callbacks, such
    as that of an import lock. In that case the signal is sent again, after the callback has ended.
    """
    handler = signal.signal(signal.SIGTERM, _terminated)
    hook = sys.unraisablehook

    def dropped(lost: UnraisableHookArgs) -> None:
        number = _SIGNALS.get(lost.exc_type)
        if number is None:
            hook(lost)
        else:
            threading.Thread(target=_send_again, args=(number,), daemon=True).start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, handler)


def code_of(error: BaseException | None) -> int | None:
    """Return the exit code if an interruption caused the error, else None.

    An interruption may be the error's cause: Python wraps what is raised while a class is created.
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


def _send_again(number: signal.Signals) -> None:
    time.sleep(_CALLBACK_SECONDS)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)
