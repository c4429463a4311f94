"""Pauses between tries, and patience with an unavailable database."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from vidan.errors import DatabaseUnavailable

T = TypeVar("T")

FIRST_SECONDS, LONGEST_SECONDS = 0.2, 2.0
"""First and longest pause between two tries, in seconds."""

OUTAGE_SECONDS = 30.0
"""Longest outage of the database, in seconds, that does not end a wait."""


class BackOff:
    """The pauses between tries: each is twice as long as the one before, up to the longest."""

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def pause(self) -> float:
        """Return the seconds to wait after a failure."""
        pause, self._next = self._next, min(2 * self._next, LONGEST_SECONDS)
        return pause

    def worked(self) -> None:
        """Begin again with the first pause, after a success."""
        self._next = FIRST_SECONDS


def patiently(
    read: Callable[[], T],
    *,
    pause: float,
    until: float = math.inf,
    tell: Callable[[DatabaseUnavailable], None] = lambda _: None,
) -> T:
    """Return `read()`, tried every `pause` seconds while the database is unavailable.

    Raises DatabaseUnavailable after OUTAGE_SECONDS, or after the monotonic time `until`. `tell` is
    called with the first error.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            return read()
        except DatabaseUnavailable as error:
            now = time.monotonic()
            if now - began > OUTAGE_SECONDS or now > until:
                raise
            if not told:
                tell(error)
                told = True
            time.sleep(pause)
