"""How long commands take to start: `vidan --help` beside `celery --help`, and `vidan scenario list`
beside a bare script that imports SQLAlchemy and psycopg and prints the same rows.

    DATABASE_URL=postgresql://… python benchmarks/start.py [--json FILE]

Prints one table; with --json also writes {"machine": …, "rows": [{"name", "ratio", …}]}. The two of
a row run in turn, A B A B, the medians are compared. celery has to be installed beside vidan.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROUNDS = 15

BARE = """
import os
import psycopg
import sqlalchemy

engine = sqlalchemy.create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
)
with engine.begin() as connection:
    for row in connection.execute(
        sqlalchemy.text("SELECT id, status, task, source FROM scenarios ORDER BY id DESC LIMIT 50")
    ):
        print(*row, sep="\\t")
"""


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of two commands, in seconds, and their ratio."""

    name: str
    seconds: float
    beside: float
    ratio: float


def seconds(command: list[str]) -> float:
    """Run a command, and return the seconds it took. Raises CalledProcessError."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def compare(name: str, ours: list[str], theirs: list[str]) -> Row:
    """Time two commands in turn, and return the medians and their ratio."""
    for command in (ours, theirs):  # warm the file cache
        seconds(command)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Row(name, mine, other, mine / other)


def main() -> int:
    """Compare, print, write. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    beside = Path(sys.executable).parent
    celery = shutil.which("celery", path=str(beside))
    if celery is None or "DATABASE_URL" not in os.environ:
        print("needs DATABASE_URL and celery: pip install celery", file=sys.stderr)
        return 2
    vidan = str(beside / "vidan")
    rows = [
        compare("vidan --help / celery --help", [vidan, "--help"], [celery, "--help"]),
        compare(
            "vidan scenario list / bare script",
            [vidan, "scenario", "list"],
            [sys.executable, "-c", BARE],
        ),
    ]
    for row in rows:
        print(f"{row.name:40} {row.seconds:.3f} s  {row.beside:.3f} s  {row.ratio:.2f}")
    if arguments.json is not None:
        python = platform.python_version()
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {python}"
        report = {"machine": machine, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
