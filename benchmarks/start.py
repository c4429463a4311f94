"""How long commands take to start: `vidan --help` beside `celery --help`, and `vidan scenario list`
beside a bare script that imports SQLAlchemy and psycopg and prints the same rows.

    DATABASE_URL=postgresql://… python benchmarks/start.py [--json FILE]

Prints one table; with --json also writes {"machine": …, "rows": [{"name", "ratio", …}]}. The two of
a row run in turn, A B B A, the medians are compared. celery has to be installed beside vidan.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402

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


def seconds(command: list[str]) -> float:
    """Run a command, and return the seconds it took. Raises CalledProcessError."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def compare(name: str, promise: str, ours: list[str], theirs: list[str]) -> report.Row:
    """Time two commands in turn, and return the medians and their ratio."""
    mine, other = map(
        report.median, report.in_turn(ROUNDS, lambda: seconds(ours), lambda: seconds(theirs))
    )
    return report.Row(name, mine / other, {"seconds": mine, "beside": other}, promise)


def main() -> int:
    """Compare, print, write. Returns the exit code."""
    arguments = report.parser(__doc__).parse_args()
    beside = Path(sys.executable).parent
    celery = shutil.which("celery", path=str(beside))
    if celery is None or "DATABASE_URL" not in os.environ:
        print("needs DATABASE_URL and celery: pip install celery", file=sys.stderr)
        return 2
    vidan = str(beside / "vidan")
    rows = [
        compare("vidan --help / celery --help", "<= 0.6", [vidan, "--help"], [celery, "--help"]),
        compare(
            "vidan scenario list / bare script",
            "<= 1.3",
            [vidan, "scenario", "list"],
            [sys.executable, "-c", BARE],
        ),
    ]
    report.publish(rows, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
