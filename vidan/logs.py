"""Log lines on stderr: text for people, JSON on request; each names its scenario and worker.

A thread binds the scenario that it works on to its context. Every line that it logs meanwhile
carries these fields, also the lines of a task and of libraries.
"""

from __future__ import annotations

import io
import json as json_module
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, TextIO
from uuid import UUID

if TYPE_CHECKING:
    from vidan.config import Settings

FIELDS = ("process", "worker_id", "scenario_id", "epoch")
"""The fields that a line may carry beside its message, in this order."""

LONGEST_PRINTED = 8_000
"""Characters after which a printed line is logged though it has not ended."""

Fields = Mapping[str, object]

_of_process: dict[str, object] = {}
_bound: ContextVar[Fields] = ContextVar("bound")


@contextmanager
def bound(
    *, scenario_id: int | None = None, epoch: int | None = None, worker_id: UUID | None = None
) -> Iterator[None]:
    """Add these fields to every line that this thread logs inside the block."""
    given = {"scenario_id": scenario_id, "epoch": epoch, "worker_id": worker_id}
    fields = {name: value for name, value in given.items() if value is not None}
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def carried(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls this one with the fields that are bound now.

    Use it for the function of a new thread, which otherwise begins without fields.
    """
    return partial(copy_context().run, function)


def identify(worker_id: UUID) -> None:
    """Add the id under which this process is registered now to all its lines."""
    _of_process["worker_id"] = worker_id


def configure(settings: Settings, process: str) -> None:
    """Send all log records to stderr. A process's main function calls this once.

    `process` is the kind of the process: worker, supervisor, orchestrator … Python's warnings and
    uncaught exceptions become records too.
    """
    _of_process["process"] = process
    stream = logging.StreamHandler(sys.stderr)
    stream.addFilter(note_fields)
    stream.setFormatter(_JsonLines() if settings.log_json else _TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[stream], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def log_prints() -> None:
    """Make a log line of each line that this process prints; called once, after `configure`.

    So stdout stays clean, and a line says which scenario it is about. What other programs print
    goes where the process's own stdout goes.
    """
    sys.stdout = _Printed(sys.stdout)


class _Printed(io.TextIOBase):
    """A stdout whose lines become log lines."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout
        self._of_thread = threading.local()  # the line that a thread has begun
        self._log = logging.getLogger("vidan.printed")

    def write(self, text: str, /) -> int:
        mine = self._of_thread
        if getattr(mine, "logging", False):  # an app's own handler prints what is being logged
            sys.stderr.write(text)
            return len(text)
        *lines, mine.begun = (getattr(mine, "begun", "") + text).split("\n")
        if len(mine.begun) > LONGEST_PRINTED:
            lines.append(mine.begun)
            mine.begun = ""
        mine.logging = True
        try:
            for line in lines:
                # a progress bar writes over its line: a terminal would show the last part
                if shown := line.rstrip("\r").rpartition("\r")[2]:
                    self._log.info("%s", shown)
        finally:
            mine.logging = False
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stdout.fileno()

    @property
    def buffer(self) -> BinaryIO:
        """The bytes below, for what writes bytes: they don't become log lines."""
        return self._stdout.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a constant, in TextIOBase a variable
        """The encoding of stdout."""
        return self._stdout.encoding


def note_fields(record: logging.LogRecord) -> bool:
    """Give a record the fields of its line: a filter of the handlers of all lines."""
    # This runs in the thread that logs, so the fields that are bound there belong to the line.
    record.fields = {**_of_process, **_bound.get({})}
    # A traceback may be given as text: its exception would keep frames of the run in memory.
    record.exc_text = getattr(record, "trace", None) or record.exc_text
    return True


class _JsonLines(logging.Formatter):
    """Format a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: fields[name] for name in FIELDS if name in fields},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["traceback"] = record.exc_text
        return json_module.dumps(line, ensure_ascii=False, default=str)


class _TextLines(logging.Formatter):
    """Format a record as a line for people, with its scenario before the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(about)s%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = _fields(record)
        words = [("scenario", fields.get("scenario_id")), ("epoch", fields.get("epoch"))]
        about = " ".join(f"{name} {value}" for name, value in words if value is not None)
        record.about = f"[{about}] " if about else ""
        return super().formatMessage(record)


def _fields(record: logging.LogRecord) -> Fields:
    fields: Fields = getattr(record, "fields", {})
    return fields


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("vidan").critical("uncaught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = "?" if args.thread is None else args.thread.name
    logging.getLogger("vidan").critical(
        "uncaught in thread %s", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )
