"""Look-ups in a library that a frame can do without: none of them may fail it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger("vidan.video")

T = TypeVar("T")


def look_up(what: str, work: Callable[[], T], otherwise: T) -> T:
    """Return what `work` finds in PyAV, or `otherwise` if it raises.

    PyAV turns numbers of FFmpeg into its own enums and bytes into text, and raises ValueError,
    KeyError or an FFmpegError for what it does not know. So a newer FFmpeg, or an odd file, may
    fail any look-up. `what` names it in the log.
    """
    try:
        return work()
    except Exception as error:
        log.debug("%s can't be looked up: %s: %s", what, type(error).__name__, error)
        return otherwise
