"""The stall clock of a scenario while one or two calls of the detector have its frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from vidan.processes.slotboard import Call

Clock = Callable[[Call], AbstractContextManager[None]]
"""Runs a scenario's stall clock while the block lasts."""


class StallClock:
    """Runs `clock` while at least one call of the detector has frames of the scenario.

    The calls may overlap, in any threads. The clock measures the oldest call: it keeps running
    when a younger call ends, and restarts for the younger call when the oldest one ends.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[object] = []  # the calls that have frames now, the oldest first
        self._running: AbstractContextManager[None] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count the block as a call of the detector."""
        call = object()
        with self._lock:
            self._calls.append(call)
            if self._running is None:
                self._start()
        try:
            yield
        finally:
            with self._lock:
                oldest = self._calls[0] is call
                self._calls.remove(call)
                if oldest:
                    running, self._running = self._running, None
                    assert running is not None
                    running.__exit__(None, None, None)
                    if self._calls:
                        self._start()

    def _start(self) -> None:
        self._running = self._clock(Call.DETECTOR)
        self._running.__enter__()
