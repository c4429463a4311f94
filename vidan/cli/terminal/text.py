"""TODO: say what this module is for."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def to_json(value: Any, *, pretty: bool = False) -> str:
    """JSON in one line, or indented for a reader at a terminal."""
    return jsonlib.dumps(value, ensure_ascii=False, default=_unknown, indent=2 if pretty else None)


def _unknown(value: object) -> object:
    return moment(value) if isinstance(value, datetime) else str(value)


def moment(at: datetime) -> str:
    """ISO 8601 with the zone."""
    return at.isoformat(timespec="seconds")


def counted(number: int, thing: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {thing}{'s' if number != 1 else ''}"


def plain(value: object) -> str:
    """One value as text that keeps to its column: no tabs, no line breaks, `-` for nothing."""
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


def printable(text: str) -> str:
    """The text without control characters: a file's name must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def coloured(text: str, code: str) -> str:
    """The text in an ANSI colour, where stderr is a terminal that wants one."""
    wanted = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    if not wanted or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{code}m{text}\033[0m"
