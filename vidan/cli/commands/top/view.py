"""How `vidan top` looks: three tables that fit the terminal, and the same state as JSON."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vidan.cli.terminal.tables import cell
from vidan.cli.terminal.text import counted, local_moment, moment, plain, status_word
from vidan.services import overview

if TYPE_CHECKING:
    from vidan.services.overview import Overview, Queue, Running
    from vidan.services.workers import WorkerRow

RATE_SECONDS = 10.0
"""Time over which a scenario's speed is measured, in seconds; frames are stored in batches."""

WIDE = 110
"""Narrowest terminal in which all columns are shown, in characters."""
_FRAME_LINES = 10
"""Lines that are not rows: the headline, and for each table an empty line, headings and a rule."""
_MAY_SHRINK = ("SOURCE", "NAME", "WORKER", "HOST", "QUEUES")

Column = tuple[str, bool, Callable[[Any], object]]
"""Heading, whether it is right-aligned as numbers are, function from an item to its value."""


class Rates:
    """Frames per second of running scenarios, counted from one update to the next."""

    def __init__(self) -> None:
        self._counts: dict[int, deque[tuple[float, int]]] = {}
        self._alone: dict[int, float] = {}

    def note(self, found: Overview, at: float | None = None) -> None:
        """Record an update, read at the monotonic time `at`."""
        now = time.monotonic() if at is None else at
        before, self._counts = self._counts, {}
        for one in found.running:
            counts = before.get(one.id, deque())
            if counts and counts[-1][1] > one.frames_done:
                counts.clear()  # it was started from the beginning
            counts.append((now, one.frames_done))
            while len(counts) > 2 and counts[0][0] < now - RATE_SECONDS:
                counts.popleft()
            self._counts[one.id] = counts
        lone = [w for w in found.workers if len(w.scenarios) == 1]
        self._alone = {worker.scenarios[0]: worker.fps for worker in lone}

    def of(self, scenario_id: int) -> float | None:
        """Return a scenario's frames per second; None while unknown."""
        counts = self._counts.get(scenario_id, deque())
        if len(counts) < 2:
            return self._alone.get(scenario_id)
        (began, first), (ended, last) = counts[0], counts[-1]
        return (last - first) / max(ended - began, 1e-6)


def as_json(found: Overview, rates: Rates) -> dict[str, Any]:
    """Return the JSON that scripts may rely on."""
    return {
        "at": found.at.isoformat(),
        "workers": [worker.as_json() for worker in found.workers],
        "queues": [queue.as_json() for queue in found.queues],
        "scenarios": [
            {
                "id": one.id,
                "name": one.name,
                "task": one.task,
                "source": one.source,
                "queue": one.queue,
                "status": one.status,
                "frames_done": one.frames_done,
                "frames_total": one.frames_total,
                "frames_estimated": one.frames_estimated,
                "fps": None if (rate := rates.of(one.id)) is None else round(rate, 1),
                "worker": one.worker,
                "ran_seconds": one.ran_seconds and round(one.ran_seconds, 1),
                "retries_left": one.retries_left,
            }
            for one in found.running
        ],
    }


def console() -> Console:
    """Return a console that writes to stdout."""
    return Console(file=sys.stdout, highlight=False)


def view(
    found: Overview, rates: Rates, width: int, *, height: int | None, words: bool = True
) -> Group:
    """Return headline and tables, cut to `height` lines if it is given.

    `words`: whether a status reads as a word for people, or as its name, and the time is local.
    """
    rooms = _rooms(height, len(found.workers), len(found.queues), len(found.running))
    parts: list[tuple[str, Sequence[Any], list[Column]]] = [
        ("WORKERS", found.workers, _worker_columns(width)),
        ("QUEUES", found.queues, _queue_columns(words=words)),
        ("SCENARIOS", found.running, _scenario_columns(rates, width, words=words)),
    ]
    shown: list[Any] = [_headline(found, width, words=words)]
    for (title, things, columns), room in zip(parts, rooms, strict=True):
        shown += [Text(), _table(title, things, columns, room, width)]
    return Group(*shown)


def _headline(found: Overview, width: int | None, *, words: bool) -> Text:
    slots = sum(worker.slots for worker in found.workers)
    used = sum(_used(worker) for worker in found.workers)
    fps = sum(worker.fps for worker in found.workers)
    waiting = _many(sum(queue.waiting for queue in found.queues))
    at = found.at.astimezone()
    shown = local_moment(at) if words else moment(at)
    said = (
        f"{counted(len(found.workers), 'worker')},"
        f" {used}/{slots} slots, {fps:.0f} fps, {waiting} waiting"
    )
    line = f"vidan  {shown}   {said}"
    if width is not None and len(line) > width:
        line = f"{at:%H:%M:%S %Z}  {said}"
    return Text(line, style="bold", no_wrap=True, overflow="ellipsis")


def _rooms(height: int | None, *wanted: int) -> list[int | None]:
    """Share the lines of the screen: a third for each table, unused lines go to the next table."""
    if height is None:
        return [None for _ in wanted]
    left = max(len(wanted), height - _FRAME_LINES)
    rooms: list[int | None] = []
    for place, rows in enumerate(wanted):
        room = max(1, min(rows, left // (len(wanted) - place)))
        rooms.append(room)
        left -= room
    return rooms


def _used(worker: WorkerRow) -> int:
    """Return how many slots are used. A worker may hold more scenarios, which wait for a slot."""
    return min(worker.slots, len(worker.scenarios))


def _many(count: int) -> str:
    return f"{count}+" if count >= overview.MANY else str(count)


def _worker_columns(width: int) -> list[Column]:
    columns: list[Column] = [
        ("WORKER", False, lambda w: w.name),
        ("STATE", False, lambda w: w.state),
        ("DEVICE", False, lambda w: w.device),
        ("SLOTS", True, lambda w: f"{_used(w)}/{w.slots}"),
        ("FPS", True, lambda w: f"{w.fps:.1f}"),
    ]
    if width >= WIDE:
        columns.append(("HOST", False, lambda w: w.host))
    columns.append(("QUEUES", False, lambda w: w.queues))
    return columns


def _queue_columns(*, words: bool) -> list[Column]:
    def queue_name(queue: Queue) -> str:
        return queue.name

    def due(queue: Queue) -> str | None:
        if (at := queue.next_due) is None:
            return None
        return local_moment(at) if words else moment(at.astimezone())

    return [
        ("QUEUE", False, queue_name),
        ("WAITING", True, lambda q: _many(q.waiting)),
        ("DELAYED", True, lambda q: _many(q.delayed)),
        ("RUNNING", True, lambda q: _many(q.running)),
        ("FAILED", True, lambda q: q.failed),
        ("NEXT DUE", False, due),
    ]


def _scenario_columns(rates: Rates, width: int, *, words: bool) -> list[Column]:
    def speed(one: Running) -> str:
        rate = rates.of(one.id)
        return "-" if rate is None else f"{rate:.1f}"

    def frames(one: Running) -> str:
        if one.frames_total is not None:
            return f"{one.frames_done}/{one.frames_total}"
        about = one.frames_estimated
        return f"{one.frames_done}" + (f"/~{max(about, one.frames_done)}" if about else "")

    def source(one: Running) -> str:
        """Return the last part of the source's path or address."""
        return (one.source or "-").rstrip("/").rpartition("/")[2] or "-"

    columns: list[Column] = [
        ("ID", True, lambda s: s.id),
        ("TASK", False, lambda s: s.task),
        ("SOURCE", False, source),
        ("FRAMES", True, frames),
        ("FPS", True, speed),
        ("WORKER", False, lambda s: s.worker),
    ]
    if width >= WIDE:
        columns.insert(3, ("NAME", False, lambda s: s.name))
        columns.append(("RAN", True, lambda s: s.ran_seconds and f"{s.ran_seconds:.0f} s"))
        columns.append(("STATUS", False, lambda s: status_word(s.status) if words else s.status))
    return columns


def _table(
    title: str, things: Sequence[Any], columns: list[Column], room: int | None, width: int
) -> Any:
    if not things:
        nothing = {
            "WORKERS": "no workers",
            "QUEUES": "no queues",
            "SCENARIOS": "nothing runs",
        }
        return Text(nothing[title], style="dim")
    shown = things if room is None or len(things) <= room else things[: max(0, room - 1)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    rows = [[plain(value(thing)) for _, _, value in columns] for thing in shown]
    widths = _widths([heading for heading, _, _ in columns], rows, width)
    for (heading, number, _), columns_wide in zip(columns, widths, strict=True):
        justify: Any = "right" if number else "left"
        table.add_column(
            heading, justify=justify, no_wrap=True, overflow="ellipsis", width=columns_wide
        )
    for row in rows:
        table.add_row(
            *(cell(heading, text) for (heading, *_), text in zip(columns, row, strict=True))
        )
    left = len(things) - len(shown)
    return table if not left else Group(table, Text(f"… and {left} more", style="dim"))


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the width of each column: columns of names shrink if they must, others never."""
    needed = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    names = [place for place, heading in enumerate(headings) if heading in _MAY_SHRINK]
    while names and sum(needed) + 2 * (len(needed) - 1) + 1 > width:
        widest = max(names, key=lambda place: needed[place])
        if needed[widest] <= len(headings[widest]):
            break
        needed[widest] -= 1
    return needed
