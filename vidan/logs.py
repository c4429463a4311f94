"""Log lines on stderr: text for people, JSON on request; each says what it is about.

What a thread works on is bound to its context, so that every line that is logged meanwhile carries
it, a task's own and those of libraries, too.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from vidan.config import Settings

FIELDS = ("process", "worker_id", "scenario_id", "epoch")
"""What a line may carry beside its message, in this order."""

Fields = Mapping[str, object]

_of_process: dict[str, object] = {}
_bound: ContextVar[Fields] = ContextVar("bound")


@contextmanager
def bound(
    *, scenario_id: int | None = None, epoch: int | None = None, worker_id: UUID | None = None
) -> Iterator[None]:
    """Let every line that this thread logs inside of the block carry these fields."""
    given = {"scenario_id": scenario_id, "epoch": epoch, "worker_id": worker_id}
    fields = {name: value for name, value in given.items() if value is not None}
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def carried(function: Callable[[], None]) -> Callable[[], None]:
    """Return the function such that a thread that calls it logs with what is bound here and now.

    A thread begins with nothing bound.
    """
    return partial(copy_context().run, function)


def identify(worker_id: UUID) -> None:
    """Let every line of this process carry the id under which it is registered now."""
    _of_process["worker_id"] = worker_id


def configure(settings: Settings, process: str) -> None:
    """Send all log records to stderr. To be called once, by a process's main function.

    `process` says what this one is: worker, supervisor, orchestrator … Python's warnings, and
    exceptions that nothing has caught, become records, too.
    """
    _of_process["process"] = process
    stream = logging.StreamHandler(sys.stderr)
    stream.addFilter(_note_fields)
    stream.setFormatter(_JsonLines() if settings.log_json else _TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[stream], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _note_fields(record: logging.LogRecord) -> bool:
    # called in the thread that logs: what is bound there is what the line is about
    record.fields = {**_of_process, **_bound.get({})}
    return True


class _JsonLines(logging.Formatter):
    """One JSON object a record."""

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
        return json_module.dumps(line, ensure_ascii=False, default=str)


class _TextLines(logging.Formatter):
    """A line for people; the scenario that it is about stands before the message."""

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
