"""How long commands take to start, compared with others that do the same.

`vidan --help` is compared with `celery --help`, and `vidan scenario list` with a bare script that
imports SQLAlchemy and psycopg and prints the same rows.

    python benchmarks/start.py [--json FILE]

Starts a PostgreSQL of its own, with fifty scenarios in it. The two commands of a row run in turn, A
B B A; the ratio is the median of the ratios of neighbouring runs. Needs the extra `bench`, for
celery.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from vidan.protocol import creation

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from tests.support.durable_postgres import durable_postgres  # noqa: E402
from vidan.db import schema  # noqa: E402
from vidan.db.session import Database  # noqa: E402
from vidan.protocol.creation import NewScenario  # noqa: E402

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
    """Run a command and return how many seconds it took. Raises CalledProcessError."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def fill(url: str) -> str:
    """Put fifty scenarios into a new database, and return its URL."""
    schema.upgrade(url)
    database = Database(url)
    with database.begin() as connection:
        creation.create_many(connection, [NewScenario(source="video.mp4")] * 50)
    database.close()
    return url


def compare(name: str, promise: str, ours: list[str], theirs: list[str]) -> report.Row:
    """Time two commands in turn, and return the medians and their ratio."""
    mine, other = report.in_turn(ROUNDS, lambda: seconds(ours), lambda: seconds(theirs))
    figures: dict[str, report.Cell] = {
        "vidan, s": report.median(mine),
        "beside, s": report.median(other),
    }
    return report.Row(name, report.paired(mine, other), figures, promise)


def main() -> int:
    """Compare, print, write. Returns the exit code."""
    arguments = report.parser(__doc__).parse_args()
    beside = Path(sys.executable).parent
    celery = shutil.which("celery", path=str(beside))
    if celery is None:
        print("celery is missing: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    vidan = str(beside / "vidan")
    with durable_postgres() as postgres:
        os.environ["DATABASE_URL"] = fill(postgres.create_database("start"))
        listing, bare = [vidan, "scenario", "list"], [sys.executable, "-c", BARE]
        rows = [
            compare(
                "vidan --help / celery --help", "<= 0.6", [vidan, "--help"], [celery, "--help"]
            ),
            compare("vidan scenario list / bare script", "<= 1.3", listing, bare),
        ]
    report.publish(rows, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
