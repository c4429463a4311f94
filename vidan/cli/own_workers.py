"""The workers that `up` and `run` start for themselves: a supervisor as a child process."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from vidan.errors import HOPELESS_EXIT_CODES, DatabaseUnavailable, VidanError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.domain.worker import WorkerOptions
    from vidan.processes.lifeline import Child

STOP_SECONDS = 30.0
"""Time, in seconds, that the workers get to finish a batch, commit it and hand their runs over."""

HEALTHY_SECONDS = 30.0
"""A supervisor that ran for longer than this, in seconds, resets the count of failed starts."""

AWAY_SECONDS = 2.0
"""While the database is unavailable, shortest time between two starts of the supervisor, in
seconds."""

HOPELESS = frozenset(HOPELESS_EXIT_CODES) - {DatabaseUnavailable.exit_code}
"""Exit codes after which another start can't help; the stack restarts its database by itself."""

TRIES = 5
"""Most starts in a row that may fail."""


@dataclass
class OwnWorkers:
    """A context manager: a supervisor runs for as long as the block, and is restarted if it dies.

    Its log goes to the file `log`, or to stderr. A supervisor that exits with 0 was asked to, for
    example because all its workers were drained: it is not restarted, and `left` is True.
    """

    settings: Settings
    posts: Sequence[WorkerOptions]
    log: Path | None = None
    left: bool = field(default=False, init=False)
    _child: Child | None = field(default=None, init=False)
    _output: IO[bytes] | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)
    _tries: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        if self.log is not None:
            self._output = self.log.open("ab")
        self._start()
        return self

    def check(self) -> bool:
        """Restart the supervisor if it has died; return whether it had.

        Raises VidanError if restarting does not help.
        """
        if self._child is None or self.left or (code := self._child.poll()) is None:
            return False
        if code == 0:
            self.left = True
            return False
        if code == DatabaseUnavailable.exit_code:  # the stack restarts its database
            if self._age() < AWAY_SECONDS:
                return False
        else:
            self._tries = 1 if self._age() > HEALTHY_SECONDS else self._tries + 1
        if self._tries >= TRIES or code in HOPELESS:
            where = f"see {self.log}" if self.log is not None else "its log is above"
            error = VidanError(f"the workers ended with exit code {code}", hint=where)
            error.exit_code = code if code in HOPELESS else error.exit_code
            raise error
        self._child.close()
        self._start()
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._child is not None:
                self._stop(self._child)
        finally:
            if self._output is not None:
                self._output.close()

    def _age(self) -> float:
        return time.monotonic() - self._started

    def _start(self) -> None:
        from vidan.processes import lifeline

        self._started = time.monotonic()
        posts = json.dumps([json.loads(post.to_json()) for post in self.posts])
        self._child = lifeline.spawn(
            "vidan.supervisor",
            ["--posts", posts],
            env=self.settings.environment(),
            stderr=self._output,
            stdout=self._output,
        )

    def _stop(self, child: Child) -> None:
        try:
            child.stop(STOP_SECONDS)
        except BaseException:  # a second Ctrl-C or SIGTERM: end at once
            child.kill()
            child.wait()
            child.close()
            raise
