"""A log that can't fill a disk: of lines from one place in the code, so many pass in a minute."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

MOST_LINES = 20
"""Most lines of one place in the code that pass in WINDOW seconds."""

MOST_REQUESTS = 1_000
"""Most requests that are logged in WINDOW seconds, each as a line."""

WINDOW = 60.0
"""Time, in seconds, for which lines are counted."""

_ACCESS = "uvicorn.access"

log = logging.getLogger(__name__)

Place = tuple[str, str, int]
"""The name of a logger, and the file and line where it is called."""


@dataclass(slots=True)
class _Count:
    began: float
    passed: int = 0
    left_out: int = 0


class BoundedLog(logging.Filter):
    """A filter of a handler: it leaves out lines beyond the bounds, and counts them.

    `tell` logs the counts; it has to be called from time to time. A place in the code is what
    lines have in common even if each names another client.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[Place, _Count] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line passes."""
        if record.name == __name__:
            return True
        most = MOST_REQUESTS if record.name == _ACCESS else MOST_LINES
        with self._lock:
            place = record.name, record.pathname, record.lineno
            count = self._counts.setdefault(place, _Count(time.monotonic()))
            if count.passed < most:
                count.passed += 1
                return True
            count.left_out += 1
            return False

    def tell(self) -> None:
        """Begin to count anew where WINDOW has passed, and log how many lines were left out."""
        now = time.monotonic()
        with self._lock:
            over = {p: c for p, c in self._counts.items() if now - c.began >= WINDOW}
            for place in over:
                del self._counts[place]
        for (name, _, line), count in over.items():
            if count.left_out:
                log.warning(
                    "%d more lines like those of %s, line %d, were left out in %.0f s",
                    count.left_out, name, line, now - count.began,
                )  # fmt: skip
