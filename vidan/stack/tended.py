"""A service that is restarted when it ends, with back-off."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vidan.errors import VidanError
from vidan.processes import lifeline

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Shortest and longest delay, in seconds, of a restart: it doubles after each failure."""
STEADY_SECONDS = 10.0
"""A service that has run for this many seconds restarts at once, and its failures are forgotten."""
TROUBLING_FAILURES = 5
"""Failures in a row from which on the service counts as not starting."""

_log = logging.getLogger("vidan.keeper")


class Process(Protocol):
    """A process that can be tended: PostgresServer, ModuleProcess."""

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""

    def start(self) -> None:
        """Start the process. Raises VidanError."""

    def poll(self) -> int | None:
        """Return None while the process runs, else an exit code."""

    def stop(self) -> None:
        """End the process; does nothing if it does not run."""


class ModuleProcess:
    """`python -m module`, a child that ends with this process and prints to `log`."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        patience: float,
    ) -> None:
        self._module = module
        self._arguments = arguments
        self._environment = environment
        self._log = log
        self._patience = patience  # seconds that the child gets to end after SIGTERM
        self._child: lifeline.Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the child."""
        if self._child is not None:
            self._child.close()
        with self._log.open("ab") as log:
            self._child = lifeline.spawn(
                self._module, self._arguments, env=self._environment, stdout=log, stderr=log
            )

    def poll(self) -> int | None:
        """Return None while the child runs, else the exit code."""
        return 0 if self._child is None else self._child.poll()

    def stop(self) -> None:
        """Terminate the child, and kill it if that takes too long."""
        if self._child is not None:
            self._child.stop(self._patience)
            self._child = None


class Tended:
    """A service that the keeper tends: it calls `tend` in each round."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self._started_at: float | None = None
        self._not_before = 0.0
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """The process id, None while the service does not run."""
        return self.process.pid if self.process.poll() is None else None

    def start(self) -> None:
        """Start the service for the first time. Raises VidanError."""
        self._started_at = time.monotonic()
        self.process.start()

    def tend(self) -> None:
        """Start the service if it does not run and its delay is over."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None:
            if self._started_at is not None and now - self._started_at > STEADY_SECONDS:
                self._failures = 0
            return
        if self._started_at is not None:
            _log.warning("%s ended with exit code %s and is restarted", self.name, code)
            self._note_failure(now)
        if now >= self._not_before:
            self._try_to_start()

    def stop(self) -> None:
        """Stop the service, and forget its failures."""
        self.process.stop()
        self._started_at = None
        self._not_before = 0.0
        self._failures = 0

    def trouble(self) -> str | None:
        """Return a line about it if the service ended soon after its start too often, else None."""
        if self._failures < TROUBLING_FAILURES:
            return None
        return f"the embedded {self.name} ended {self._failures} times soon after its start"

    def _try_to_start(self) -> None:
        try:
            self.start()
        except VidanError as error:
            _log.error("%s", error)
            self._note_failure(time.monotonic())

    def _note_failure(self, now: float) -> None:
        """Delay the next start, longer after each failure."""
        steady = self._started_at is not None and now - self._started_at > STEADY_SECONDS
        self._failures = 0 if steady else self._failures + 1
        delay = 0.0 if steady else min(FIRST_DELAY * 2 ** (self._failures - 1), LONGEST_DELAY)
        self._not_before = now + delay
        self._started_at = None
