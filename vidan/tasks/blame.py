"""Where in an app's code an error was raised, and its traceback as text."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import vidan
from vidan.protocol import storable

MAX_TRACE = 16_000
"""Most characters of a traceback that are kept: what is in the middle of a longer one is cut."""

_VIDAN = str(Path(vidan.__file__).parent) + "/"
_LIBRARIES = tuple(
    sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def place(error: BaseException) -> str | None:
    """Return `file:line` in the app's code through which an error came last; None if there is none.

    The app's code is what is neither vidan's nor a library's; of an app that is installed as a
    library it is the line of the task. Never raises.
    """
    try:
        lines = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if not frame.f_code.co_filename.startswith((_VIDAN, "<"))
        ]
        own = [one for one in lines if not one[0].startswith(_LIBRARIES)]
        if not lines:
            return None
        file, line = own[-1] if own else lines[0]
        return f"{_shown(file)}:{line}"
    except BaseException:  # code of the error's own class may raise anything
        return None


def trace(error: BaseException) -> str | None:
    """Return the traceback of an error as text, which a text column accepts. Never raises.

    It has MAX_TRACE characters at most, and no user and password of a URL.
    """
    try:
        return storable.block("".join(traceback.format_exception(error)).rstrip(), MAX_TRACE)
    except BaseException:
        return None


def _shown(file: str) -> str:
    """Return a path as it is seen from the current directory."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
