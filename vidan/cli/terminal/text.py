"""Values as text: JSON, one-line text, times, colours, and statuses as words for people."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, TextIO

from vidan.domain.status import Status

STATUS_WORDS: Mapping[Status, str] = {
    Status.INIT_STARTUP: "queued",
    Status.INIT_STARTUP_PROCESSING: "starting",
    Status.ACTIVE: "running",
    Status.INIT_SHUTDOWN: "stopping",
    Status.IN_SHUTDOWN_PROCESSING: "stopping",
    Status.INACTIVE: "stopped",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
}
"""What a person at a terminal reads for each status of the state machine."""


COLOURS: Mapping[str, str] = {
    **dict.fromkeys(("running", "busy", "completed", "ok"), "green"),
    **dict.fromkeys(("starting", "queued"), "cyan"),
    **dict.fromkeys(("stopping", "stopped", "draining", "warn"), "yellow"),
    **dict.fromkeys(("failed", "fail"), "red"),
}
"""The colours of statuses and states, as a person reads them in a table."""

_ANSI = {"red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def status_word(status: Status) -> str:
    """Return the word that a person at a terminal reads for a status."""
    return STATUS_WORDS[status]


def to_json(value: Any, *, pretty: bool = False) -> str:
    """Return JSON on one line, or indented for a terminal."""
    return jsonlib.dumps(value, ensure_ascii=False, default=_unknown, indent=2 if pretty else None)


def _unknown(value: object) -> object:
    return moment(value) if isinstance(value, datetime) else str(value)


def moment(at: datetime) -> str:
    """Return a time in ISO 8601 with its zone."""
    return at.isoformat(timespec="seconds")


def local_moment(at: datetime) -> str:
    """Return a time for people: that of this machine's zone, with the zone's name."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def counted(number: int, thing: str) -> str:
    """Return a number with its noun: `1 worker`, `2 workers`."""
    return f"{number} {thing}{'s' if number != 1 else ''}"


def plain(value: object) -> str:
    """Return a value as text for one column: no tabs, no line breaks, `-` for nothing."""
    if value is None or value in ("", [], {}, ()):
        text = "-"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = repr(value).removesuffix(".0")
    elif isinstance(value, datetime):
        text = moment(value)
    elif isinstance(value, dict):
        text = to_json(value)
    elif isinstance(value, list | tuple):
        text = ",".join(plain(item) for item in value)
    else:
        text = " ".join(str(value).splitlines()).replace("\t", " ")
    return printable(text)


def for_people(value: object) -> str:
    """Return a value as `plain` does, but a status as a word and a time as people read it."""
    if isinstance(value, datetime):
        return local_moment(value)
    return status_word(value) if isinstance(value, Status) else plain(value)


def field_for_people(name: str, value: object) -> str:
    """Return the value of a record's field for people; a status has its colour.

    Fields called `at` or `…_at` are times, which JSON holds as text.
    """
    if isinstance(value, str) and (name == "at" or name.endswith("_at")):
        with suppress(ValueError):
            return local_moment(datetime.fromisoformat(value))
    text = for_people(value)
    if name in ("status", "state") and text in COLOURS:
        return coloured(text, _ANSI[COLOURS[text]], sys.stdout)
    return text


def printable(text: str) -> str:
    """Return the text without control characters, which could control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def coloured(text: str, code: str, stream: TextIO | None = None) -> str:
    """Return the text in an ANSI colour if the stream is a terminal that shows colours.

    The stream is stderr by default.
    """
    wanted = (stream or sys.stderr).isatty() and not os.environ.get("NO_COLOR")
    if not wanted or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{code}m{text}\033[0m"


def by_label(counts: Mapping[str, int] | None) -> str:
    """Return counts by label as text, `person 12, car 3`; empty if there are none."""
    return ", ".join(f"{label} {count}" for label, count in (counts or {}).items())
