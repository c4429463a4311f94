"""Waiting longer each time that something does not work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from vidan.errors import DatabaseUnavailable

FIRST_SECONDS, LONGEST_SECONDS = 0.2, 2.0


class BackOff:
    """The pauses between tries: each twice as long as the one before, up to the longest."""

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def pause(self) -> float:
        """After a failure: how many seconds to wait now."""
        pause, self._next = self._next, min(2 * self._next, LONGEST_SECONDS)
        return pause

    def worked(self) -> None:
        """The next failure is a first one again."""
        self._next = FIRST_SECONDS


T = TypeVar("T")


OUTAGE_SECONDS = 30.0
"""A database that is away for so long doesn't end a wait."""


def patiently(
    look: Callable[[], T],
    *,
    pause: float,
    until: float = math.inf,
    tell: Callable[[DatabaseUnavailable], None] = lambda _: None,
) -> T:
    """Look again every `pause` seconds while the database is away, for OUTAGE_SECONDS at most.

    Raises DatabaseUnavailable then, or after `until` (monotonic). `tell` is called with the first.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            return look()
        except DatabaseUnavailable as error:
            now = time.monotonic()
            if now - began > OUTAGE_SECONDS or now > until:
                raise
            if not told:
                tell(error)
                told = True
            time.sleep(pause)
