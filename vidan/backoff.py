"""Waiting longer each time that something does not work."""

from __future__ import annotations

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
