"""Where output goes and how it looks: stdout holds data only, everything else goes to stderr.

A terminal gets rich tables; a pipe gets one line per item, tab-separated, without a header, so that
`wc -l`, `cut` and `while read` work on it. `--json` and `--quiet` (ids only) are the same for both.
In a terminal a status is shown as a word for people; a pipe, JSON and --quiet get its name.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from vidan.cli.terminal.text import (
    field_for_people,
    local_moment,
    moment,
    plain,
    printable,
    status_word,
    to_json,
)

if TYPE_CHECKING:
    from datetime import datetime

    from rich.progress import Progress

    from vidan.domain.status import Status

T = TypeVar("T")

COUNTED = 10_000
"""Items up to which the rest of a listing is counted exactly."""

Columns = Mapping[str, Callable[[T], object]]
"""The columns of a table: heading → function from an item to its value in that column."""


@dataclass(frozen=True)
class Output:
    """Prints everything that a command has to say."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    logs: bool = False
    """Whether notes and warnings are written as log lines."""

    @property
    def terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return sys.stdout.isatty()

    @property
    def for_people(self) -> bool:
        """Whether stdout shows text for a person: neither JSON nor ids, and not in a pipe."""
        return self.terminal and not (self.json or self.quiet)

    def listing(
        self,
        things: Iterable[T],
        columns: Columns[T],
        *,
        record: Callable[[T], Mapping[str, Any]],
        id: Callable[[T], object],
        name: str,
        spare: Sequence[str] = (),
        most: int | None = None,
        count: Callable[[], int] | None = None,
    ) -> None:
        """Print many items: a JSON array, ids, a table, or a tab-separated line each.

        Items are printed as they come, a table when all have come; at most `most` of them. If there
        are more, a person at a terminal is told how many: `count` returns the number of all items,
        COUNTED + 1 at most; without it the other items are counted. In a terminal that is too
        narrow, `spare` columns are left out, the first of them first.
        """
        rest = iter(things)
        shown = islice(rest, most)
        if self.for_people:
            table = list(shown)
            if not table:
                self.note(f"no {name}")
                return
            self._table({head: [f(t) for t in table] for head, f in columns.items()}, spare)
            if next(rest, None) is not None:
                total = count() if count else len(table) + 1 + sum(1 for _ in islice(rest, COUNTED))
                self._tell_more(len(table), total)
        elif self.json:
            self._array(map(record, shown))
        else:
            for thing in shown:
                fields = [id] if self.quiet else columns.values()
                self._print("\t".join(plain(f(thing)) for f in fields))

    def details(self, record: Mapping[str, Any], *, id: object) -> None:
        """Print one item: a JSON object, its id, or a line for each of its fields."""
        if self.json:
            self._print(to_json(record, pretty=self.terminal))
        elif self.quiet:
            self._print(plain(id))
        elif self.terminal:
            width = max(len(name) for name in record)
            for name, value in record.items():
                self._print(f"{name:<{width}}  {field_for_people(name, value)}")
        else:
            for name, value in record.items():
                self._print(f"{name}\t{plain(value)}")

    def line(self, record: Mapping[str, Any], text: str, *, id: object) -> None:
        """Print one item of a stream: a line of JSON, its id, or a line of text."""
        if self.json:
            self._print(to_json(record))
        else:
            self._print(plain(id) if self.quiet else text)

    def shown(self, status: Status) -> str:
        """A status as stdout shows it: a word for people in a terminal, its name in a pipe."""
        return status_word(status) if self.terminal else str(status)

    def said(self, status: Status) -> str:
        """A status as it reads in a note or warning: the same for stderr."""
        return status_word(status) if sys.stderr.isatty() else str(status)

    def when(self, at: datetime) -> str:
        """A time as it reads in a note: local, at a terminal with the zone's name."""
        return local_moment(at) if sys.stderr.isatty() else moment(at.astimezone())

    def flush(self) -> None:
        """Write out what is buffered, so that the reader of a pipe gets it now."""
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a note for people on stderr; nothing with --quiet."""
        if not self.quiet:
            self._tell(text, logging.INFO)

    def warn(self, text: str) -> None:
        """Print a warning for people on stderr."""
        self._tell(text, logging.WARNING)

    def _tell(self, text: str, level: int) -> None:
        if self.logs:
            logging.getLogger("vidan").log(level, "%s", text)
            return
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201

    def asks(self, question: str) -> bool:
        """Ask a question on stderr; return whether the answer is yes."""
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def doing(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that tells a person at a terminal what the command does now.

        The line on stderr is erased at the end of the block.
        """
        shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if self.quiet or self.json or not shown:
            yield lambda _text: None
            return
        try:
            yield lambda text: self._draw(f"{printable(text)} …")
        finally:
            self._draw("")

    @staticmethod
    def _draw(text: str) -> None:
        sys.stderr.write(f"\r\033[2K{text}")
        sys.stderr.flush()

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """Open a progress display on stderr; None if stderr is no terminal, or with --quiet."""
        if self.quiet or self.json or not sys.stderr.isatty():
            yield None
            return
        from vidan.cli.terminal.progress import frames_progress

        with frames_progress() as progress:
            yield progress

    @contextmanager
    def drawing(self) -> Iterator[Callable[[int, int], None]]:
        """Return a function that shows how many frames are drawn, given (done, total)."""
        with self.progress() as progress:
            if progress is None:
                yield lambda _done, _total: None
                return
            bar = progress.add_task("drawing", total=None, visible=False)
            yield lambda done, total: progress.update(
                bar, completed=done, total=total, visible=True
            )

    def _table(self, columns: Mapping[str, Sequence[object]], spare: Sequence[str]) -> None:
        from rich.console import Console

        from vidan.cli.terminal import tables

        console = Console(file=sys.stdout, highlight=False)
        table, left_out = tables.fitting(columns, console.width, spare=spare)
        console.print(table)
        if left_out:
            self.note(f"the terminal is too narrow for {', '.join(left_out)}; --json has all")

    def _tell_more(self, shown: int, total: int) -> None:
        more = f"{total - shown:,}" if total <= COUNTED else f"more than {COUNTED - shown:,}"
        self.note(f"{shown:,} shown, {more} more: --all lists all, --limit N the first N")

    def _array(self, records: Iterator[Mapping[str, Any]]) -> None:
        """Print a JSON array, each element as soon as it comes."""
        before, between, after = ("[\n  ", ",\n  ", "\n]") if self.terminal else ("[", ", ", "]")
        first = next(records, None)
        if first is None:
            self._print("[]")
            return
        for lead, record in chain([(before, first)], ((between, one) for one in records)):
            # a line break in JSON is never part of a string
            text = to_json(record, pretty=self.terminal).replace("\n", "\n  ")
            sys.stdout.write(lead + text)
        self._print(after)

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
