"""Keeps the log lines about scenarios with them: collects lines, and stores them in a thread.

What a task logs never waits for the database. Lines that can't be stored in time are cut, the
oldest first, and their numbers tell so.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from vidan import logs
from vidan.db.session import Database
from vidan.domain.bounds import MAX_ID
from vidan.errors import DatabaseUnavailable
from vidan.protocol import kept_logs, storable
from vidan.protocol.kept_logs import MAX_BYTES, MAX_LINES, Batch, Line
from vidan.tasks.blame import MAX_TRACE

log = logging.getLogger("vidan.worker")

PAUSE_SECONDS = 0.25
"""Pause, in seconds, between two batches: a line waits for this long at most."""

AWAY_SECONDS = 2.0
"""Pause, in seconds, before a batch is tried again that met an unavailable database."""

CLOSING_SECONDS = 5.0
"""Longest time, in seconds, that the last lines may take when the process leaves."""

MAX_MESSAGE = 8_000
"""Most characters of a message that are kept: the middle of a longer one is cut."""

_MAX_LEVEL = 2**15 - 1  # the column is a smallint
_MEASURED_EVERY = MAX_BYTES // 8


@dataclass(slots=True)
class _Waiting:
    """The lines of one scenario that wait to be stored: the newest ones, within the bounds."""

    lines: deque[Line] = field(default_factory=deque)
    size: int = 0
    cut: int = 0

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self.size += line.size
        while len(self.lines) > MAX_LINES or self.size > MAX_BYTES:
            self.size -= self.lines.popleft().size
            self.cut += 1


class LogKeeper(logging.Handler):
    """A handler of all log lines that stores those about a scenario; a block of a process's life.

    The lines of children that a task forks go to stderr alone.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.addFilter(logs.note_fields)
        self._database = Database(url, guarded=True, pool_size=1, durable=False, direct=True)
        self._process = os.getpid()
        self._waiting: dict[int, _Waiting] = {}
        self._unmeasured: dict[int, int] = {}  # characters since a scenario's bytes were counted
        self._some = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log-keeper", daemon=True)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        logging.getLogger().removeHandler(self)
        self._closed.set()
        self._some.set()
        self._thread.join(CLOSING_SECONDS)
        self._database.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a line. Never raises, and waits for nothing but the other threads' lines."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        # in a thread of the task's own, `run.log` alone knows it
        scenario_id = fields.get("scenario_id", getattr(record, "scenario_id", None))
        if os.getpid() != self._process:
            return
        if not isinstance(scenario_id, int) or not 0 < scenario_id <= MAX_ID:
            return  # about none, or an id of the task's own making
        try:
            line = _line(record, fields)
        except Exception:  # an argument's own code may raise anything
            self.handleError(record)
            return
        self._waiting.setdefault(scenario_id, _Waiting()).add(line)  # under the handler's lock
        if not self._some.is_set():
            self._some.set()

    def store(self) -> None:
        """Store what has been collected: one step of the thread. Raises DatabaseUnavailable."""
        with self._own_lock():
            taken, self._waiting = self._waiting, {}
        batches = {one: Batch(list(found.lines), found.cut) for one, found in taken.items()}
        measure = [one for one, found in taken.items() if self._is_due(one, found.size)]
        if not batches:
            return
        try:
            self._database.retrying(kept_logs.keep, batches, measure=measure)
        except DatabaseUnavailable:
            self._put_back(taken)
            raise
        for one in measure:
            self._unmeasured[one] = 0

    def _is_due(self, scenario_id: int, size: int) -> bool:
        since = self._unmeasured.get(scenario_id)
        if len(self._unmeasured) > 10_000:
            self._unmeasured.clear()
        self._unmeasured[scenario_id] = (since or 0) + size
        return since is None or since + size > _MEASURED_EVERY

    def _put_back(self, taken: dict[int, _Waiting]) -> None:
        with self._own_lock():
            newer, self._waiting = self._waiting, taken
            for one, found in newer.items():
                into = self._waiting.setdefault(one, _Waiting())
                if found.cut:  # lines between: what came before them is cut too
                    into = self._waiting[one] = _Waiting(cut=into.cut + len(into.lines) + found.cut)
                for line in found.lines:
                    into.add(line)

    def _own_lock(self) -> AbstractContextManager[object]:
        assert self.lock is not None  # the handler's own: logging renews it in a forked child
        return self.lock

    def _work(self) -> None:
        while not self._closed.is_set():
            self._some.wait()
            self._some.clear()
            pause = PAUSE_SECONDS
            try:
                self.store()
            except DatabaseUnavailable:
                pause = AWAY_SECONDS
                self._some.set()
            except Exception:
                log.warning("log lines of scenarios can't be stored", exc_info=True)
            self._closed.wait(pause)
        try:
            self.store()
        except Exception as error:
            log.warning("the last log lines of scenarios are not stored: %s", error)


def _line(record: logging.LogRecord, fields: Mapping[str, Any]) -> Line:
    trace = record.exc_text
    if trace is None and record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
    epoch = fields.get("epoch")
    return Line(
        datetime.fromtimestamp(record.created, UTC),
        epoch if isinstance(epoch, int) else None,
        max(0, min(record.levelno, _MAX_LEVEL)),
        storable.line(record.name),
        storable.block(record.getMessage(), MAX_MESSAGE),
        None if trace is None else storable.block(trace, MAX_TRACE),
    )
