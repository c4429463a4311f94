"""The options and arguments that several commands share, and how their words are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from vidan.domain.bounds import MAX_ID
from vidan.domain.status import Status
from vidan.errors import UsageError

LONGEST_AGO = timedelta(days=36525)
"""A hundred years: the calendars of Python and PostgreSQL begin at times of their own."""
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)


def duration(word: str) -> float:
    """Seconds in `30`, `30s`, `10m`, `2h`; ValueError for anything else."""
    match = _DURATION.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is not a duration such as 30, 30s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def before(word: str) -> datetime | timedelta:
    """A time such as 2026-11-01 or 2026-11-01T12:00+00:00, or how long ago: 30d, 12h.

    A time without a zone is one of this machine's. ValueError for anything else, and for what is
    longer ago than a hundred years.
    """
    if _DURATION.fullmatch(word) and not word.isdecimal():  # 20261001 is a date
        seconds = duration(word)
        if seconds > LONGEST_AGO.total_seconds():
            raise ValueError(f"{word!r} is longer ago than 100 years")
        return timedelta(seconds=seconds)
    try:
        return moment(word)
    except ValueError:
        raise ValueError(
            f"{word!r} is neither a duration such as 12h or 30d nor a time such as 2026-11-01"
        ) from None


def moment(word: str) -> datetime:
    """A time such as 2026-11-01T06:00 or 2026-11-01T06:00+00:00; ValueError for anything else.

    A time without a zone is one of this machine's.
    """
    try:
        at = datetime.fromisoformat(word)
        return at if at.tzinfo is not None else at.astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{word!r} is not a time such as 2026-11-01T06:00") from None


def kind(word: str) -> str:
    """`message` or `scenario`; ValueError for anything else."""
    if word not in ("message", "scenario"):
        raise ValueError(f"no such kind {word!r}; there are message and scenario")
    return word


def status(word: str) -> Status:
    """A status by its name; ValueError names those that there are."""
    try:
        return Status(word)
    except ValueError:
        known = ", ".join(Status)
        raise ValueError(f"no such status {word!r}; there are {known}") from None


def label(word: str) -> tuple[str, str]:
    """Name and value of `k=v`; ValueError for anything else."""
    name, equals, value = word.partition("=")
    if not (equals and name):
        raise ValueError(f"{word!r} is not of the form name=value")
    return name, value


def names(word: str) -> list[str]:
    """The items of `a,b`, trimmed, at least one."""
    found = [item.strip() for item in word.split(",")]
    if not all(found):
        raise ValueError(f"{word!r} is not a list of names such as a,b")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Given:
    """What a task's parameter was given: the word, and its value, which is JSON if it parses."""

    word: str
    value: Any


def param(word: str) -> tuple[str, Given]:
    """Name and value of a task's parameter; ValueError for anything but `k=v`."""
    name, value = label(word)
    try:
        return name, Given(value, json.loads(value, parse_constant=_no_constant))
    except ValueError:
        return name, Given(value, value)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def unique(pairs: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    """The pairs as a mapping. Raises UsageError if a name was given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"{option} {name} is given twice", hint="give each name once")
        found[name] = value
    return found


Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="The scenario.")]
Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", min=1, max=MAX_ID, help="The scenarios."),
]
StatusOption = Annotated[
    list[Any] | None,
    typer.Option("--status", metavar="S", parser=status, help="Only these; may be repeated."),
]
LabelOption = Annotated[
    list[Any] | None,
    typer.Option(
        "--label", metavar="K=V", parser=label, help="Only with this label; may be repeated."
    ),
]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="T", help="Only of this task.")]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")]
TimeoutOption = Annotated[
    Any,
    typer.Option("--timeout", metavar="D", parser=duration, help="Such as 30, 30s, 10m, 2h."),
]
