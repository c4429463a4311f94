"""What all benchmarks share: turns A B B A, medians, one table, one JSON file."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Measured = TypeVar("Measured")
Cell = float | int | str | None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what was compared, the figures of both, and their ratio."""

    name: str
    ratio: float | None
    """None: there is nothing to compare the figures with."""
    figures: dict[str, Cell] = field(default_factory=dict)
    """Column → figure. Rows of a table may leave columns out."""
    promise: str = ""
    """What the ratio should be, for example `>= 0.97`."""


@dataclass(slots=True)
class Spent:
    """What a block took, in seconds: by the clock, and of CPU time in this process."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def spending(*, children: bool = False) -> Iterator[Spent]:
    """Measure the block; with `children`, the CPU time of child processes reaped in it, too."""
    spent = Spent()
    wall, cpu = time.perf_counter(), _cpu_seconds(children)
    try:
        yield spent
    finally:
        spent.wall = time.perf_counter() - wall
        spent.cpu = _cpu_seconds(children) - cpu


def _cpu_seconds(children: bool) -> float:
    whose = [resource.RUSAGE_SELF, *([resource.RUSAGE_CHILDREN] if children else [])]
    usages = [resource.getrusage(who) for who in whose]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_turn(
    rounds: int, *sides: Callable[[], Measured], warm_up: bool = True
) -> list[list[Measured]]:
    """Measure all sides `rounds` times, alternately forwards and backwards (A B B A …).

    So a machine that becomes slower or faster favours no side. Returns a list of measurements for
    each side. With `warm_up`, each side first runs once without being counted.
    """
    if warm_up:
        for side in sides:
            side()
    measured: list[list[Measured]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            measured[place].append(sides[place]())
    return measured


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of neighbouring runs, so that the machine's drift cancels."""
    return median([one / other for one, other in zip(ours, theirs, strict=True)])


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def machine() -> str:
    """Describe, in one line, the machine on which the figures were measured."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass  # not Linux
    return f"{model}, {count} cores, {platform.system()}, Python {platform.python_version()}"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write machine and rows to FILE")
    return made


def publish(rows: Sequence[Row], path: Path | None = None) -> None:
    """Print the table and, with a path, write {"machine": …, "rows": [{"name", "ratio", …}]}."""
    print(table(rows))
    print(machine())
    if path is not None:
        entries = [
            {"name": row.name, "ratio": row.ratio, "promise": row.promise or None, **row.figures}
            for row in rows
        ]
        path.write_text(json.dumps({"machine": machine(), "rows": entries}, indent=2) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text; numbers have three significant digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row.figures))
    lines = [["", *columns, "ratio", "promise"]]
    for row in rows:
        figures = [_shown(row.figures.get(column)) for column in columns]
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        lines.append([row.name, *figures, ratio, row.promise])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"
