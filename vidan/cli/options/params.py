"""Options and arguments that several commands share, and the parsers of their words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli.options import completion
from vidan.cli.terminal.text import STATUS_WORDS
from vidan.domain.bounds import MAX_ID
from vidan.domain.status import Status
from vidan.errors import UsageError

if TYPE_CHECKING:
    from vidan.services.filters import Order

LONGEST_AGO = timedelta(days=36525)
"""Longest time ago that an option accepts, a hundred years: far inside the calendars of both Python
and PostgreSQL."""
PARTS = 10**8
"""A share is counted in these parts of a whole, exactly: a millionth of a percent."""
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)


def duration(word: str) -> float:
    """Return the seconds in `30`, `30s`, `10m`, `2h`. Raises ValueError for anything else."""
    match = _DURATION.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is not a duration such as 30, 30s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def before(word: str) -> datetime | timedelta:
    """Read a time such as 2026-11-01 or 2026-11-01T12:00+00:00, or how long ago: 30d, 12h.

    A time without a zone is in this machine's zone. Raises ValueError for anything else, and for a
    duration of more than a hundred years.
    """
    if _DURATION.fullmatch(word) and not word.isdecimal():  # digits alone are a date: 20261001
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
    """Read a time such as 2026-11-01T06:00 or 2026-11-01T06:00+00:00.

    A time without a zone is in this machine's zone. Raises ValueError for anything else.
    """
    try:
        at = datetime.fromisoformat(word)
        return at if at.tzinfo is not None else at.astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{word!r} is not a time such as 2026-11-01T06:00") from None


def kind(word: str) -> str:
    """Accept `message` or `scenario`. Raises ValueError for anything else."""
    if word not in ("message", "scenario"):
        raise ValueError(f"no such kind {word!r}; there are message and scenario")
    return word


def sort_order(word: str) -> Order:
    """Read what to sort by: `ended`, or `-ended` for the latest first. Raises ValueError."""
    from vidan.services.filters import ORDERS, Order

    by = word.removeprefix("-")
    if by not in ORDERS:
        raise ValueError(f"can't sort by {by!r}; there are {', '.join(ORDERS)}")
    return Order(by, descending=word != by)


def status(word: str) -> Status:
    """Return the status of this name. Raises ValueError, which lists the names."""
    try:
        return Status(word)
    except ValueError:
        known = "there are " + ", ".join(Status)
        shown_as = [name for name, text in STATUS_WORDS.items() if text == word]
        if shown_as:
            known = f"a terminal shows it for {' and '.join(shown_as)}"
        raise ValueError(f"no such status {word!r}; {known}") from None


def label(word: str) -> tuple[str, str]:
    """Return name and value of `k=v`. Raises ValueError for anything else."""
    name, equals, value = word.partition("=")
    if not (equals and name):
        raise ValueError(f"{word!r} is not of the form name=value")
    return name, value


def names(word: str) -> list[str]:
    """Return the items of `a,b`, trimmed, each once. Raises ValueError if one is empty."""
    found = [item.strip() for item in word.split(",")]
    if not all(found):
        raise ValueError(f"{word!r} is not a list of names such as a,b")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Given:
    """The word given for a task's parameter, and its value: the word parsed as JSON, if it is."""

    word: str
    value: Any


def param(word: str) -> tuple[str, Given]:
    """Return name and value of a task's parameter. Raises ValueError for anything but `k=v`."""
    name, value = label(word)
    try:
        return name, Given(value, json.loads(value, parse_constant=_no_constant))
    except ValueError:
        return name, Given(value, value)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


@dataclass(frozen=True, slots=True)
class MaxLost:
    """How much a completed scenario may have lost: frames, or a share of them."""

    word: str  # as it was given
    frames: int | None = None
    parts: int | None = None  # in PARTS of all frames

    def is_exceeded(self, lost: int, frames: int) -> bool:
        """Whether `lost` of `frames` frames are more than allowed."""
        if self.parts is not None:
            return lost * PARTS > self.parts * frames
        return lost > (self.frames or 0)

    def __str__(self) -> str:
        return self.word


def max_lost(word: str) -> MaxLost:
    """Read a number of frames such as 0, or a share such as 1% or 0.5%. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,18})(?:\.(\d{1,6}))?(%?)", word, re.ASCII)
    if match is not None and match[3]:
        parts = (int(match[1]) * 10**6 + int((match[2] or "").ljust(6, "0"))) * PARTS // 10**8
        if parts <= PARTS:
            return MaxLost(word, parts=parts)
    elif match is not None and match[2] is None:
        return MaxLost(word, frames=int(word))
    raise ValueError(f"{word!r} is neither a number of frames (0) nor a share of them (1%)")


def unique(pairs: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    """Return the pairs as a mapping. Raises UsageError if a name was given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"{option} {name} is given twice", hint="give each name once")
        found[name] = value
    return found


Id = Annotated[
    int,
    typer.Argument(
        metavar="ID", min=1, max=MAX_ID, autocompletion=completion.scenarios,
        help="Id of the scenario.",
    ),
]  # fmt: skip
Ids = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="[ID]...",
        min=1,
        max=MAX_ID,
        autocompletion=completion.scenarios,
        help="Ids of scenarios.",
    ),
]
StatusOption = Annotated[
    list[Any] | None,
    typer.Option(
        "--status",
        metavar="S",
        parser=status,
        autocompletion=completion.statuses,
        help="Only this status, e.g. active. Repeatable.",
    ),
]
LabelOption = Annotated[
    list[Any] | None,
    typer.Option("--label", metavar="K=V", parser=label, help="Only with this label. Repeatable."),
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="T", autocompletion=completion.tasks, help="Only this task."),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, max=MAX_ID, help="List at most N; in a terminal 50."
    ),
]
AllRowsOption = Annotated[bool, typer.Option("--all", help="List all, in a terminal too.")]
SinceOption = Annotated[
    Any,
    typer.Option(
        "--since",
        metavar="D",
        parser=before,
        help="Only those created this long ago or later, e.g. 2h, 7d or 2026-11-01.",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="V", help="Only of this source; * stands for any text, e.g. '*/cam1*'."
    ),
]
QueueOption = Annotated[
    str | None,
    typer.Option(
        "--queue", metavar="Q", autocompletion=completion.queues, help="Only in this queue."
    ),
]
SortOption = Annotated[
    Any,
    typer.Option(
        "--sort",
        metavar="K",
        parser=sort_order,
        help="Sort by id, name, task, source, queue, priority, frames, created, started or ended;"
        " -K begins with the largest.",
    ),
]
TimeoutOption = Annotated[
    Any,
    typer.Option(
        "--timeout",
        metavar="D",
        parser=duration,
        help="Stop waiting after this long (exit code 7), e.g. 30s, 10m.",
    ),
]
RecursiveOption = Annotated[
    bool,
    typer.Option("--recursive", help="Take all videos and pictures in folders, and below them."),
]
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave out sources that can't be read, and name them."),
]
MaxLostOption = Annotated[
    Any,
    typer.Option(
        "--max-lost",
        metavar="N|P%",
        parser=max_lost,
        help="End with exit code 11 if a completed scenario has lost more frames than this, e.g. 0"
        " or 1%.",
    ),
]
