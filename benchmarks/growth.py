"""The costs of a large database: claims, announcements and sweeps among a million ended scenarios,
pages of predictions among very many, and the heartbeats of a thousand workers.

    python benchmarks/growth.py [--only WORD] [--scenarios N] [--predictions N] [--workers N]
                                [--seconds N] [--rounds N] [--folder DIR] [--explain] [--json FILE]

Starts a PostgreSQL of its own, with PostgreSQL's defaults (fsync and autovacuum on). With --folder
its data is stored there and kept, so that the next call finds it. --only takes a part: generate
(only creates the scenarios), steps, worn, heartbeats, pages.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tests' server is used

from benchmarks import growth_server, growth_steps, report  # noqa: E402
from benchmarks.growth_beats import Fleet, commits  # noqa: E402
from benchmarks.growth_pages import Pages  # noqa: E402
from benchmarks.growth_steps import Side  # noqa: E402
from tests.support.durable_postgres import DurablePostgres  # noqa: E402


def steps(postgres: DurablePostgres, rounds: int, explain: bool) -> list[report.Row]:
    """Time the steps on the empty table and, in each state, on the grown one."""
    names = (growth_server.EMPTY, *growth_server.STATES)
    sides = {name: Side(growth_server.database_url(postgres, name)) for name in names}
    return _compared(sides, rounds, explain)


def worn(postgres: DurablePostgres, rounds: int, explain: bool, count: int) -> list[report.Row]:
    """Time the steps just after `count` more scenarios were created and ended."""
    with growth_server.copied(postgres, growth_server.STATES[-1], "worn") as url:
        empty = Side(growth_server.database_url(postgres, growth_server.EMPTY))
        grown = Side(url)
        began = time.monotonic()
        grown.wear(count)
        print(f"{count / (time.monotonic() - began):.0f} scenarios a second", flush=True)
        return _compared({growth_server.EMPTY: empty, "worn": grown}, rounds, explain)


def pages(postgres: DurablePostgres, count: int) -> list[report.Row]:
    """Time pages of predictions among `count` frames, created if they are missing."""
    stored = Pages(growth_server.database_url(postgres, growth_server.STATES[-1]))
    stored.make(count)
    return stored.rows()


def heartbeats(postgres: DurablePostgres, count: int, seconds: float) -> list[report.Row]:
    """Measure idle workers, then commits."""
    url = growth_server.database_url(postgres, growth_server.STATES[-1])
    assert postgres.pid is not None
    fleet = Fleet(url, postgres.pid, count)
    try:
        rows = fleet.rows(seconds)
    finally:
        fleet.close()
    return [*rows, commits(url)]


def _compared(sides: dict[str, Side], rounds: int, explain: bool) -> list[report.Row]:
    try:
        for side in sides.values():
            side.round()  # connections, prepared statements
            for seconds in side.seconds.values():
                seconds.clear()
        report.in_turn(rounds, *(side.round for side in sides.values()), warm_up=False)
        for side in sides.values():
            side.explain()
    finally:
        for side in sides.values():
            side.close()
    if explain:
        print(*growth_steps.told_all(sides), sep="\n")
    empty = sides.pop(growth_server.EMPTY)
    return growth_steps.rows(sides, empty)


def main() -> int:
    """Create the data, measure, print, write. Returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="run only this part")
    parser.add_argument("--scenarios", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--predictions", type=int, default=100_000_000, metavar="N")
    parser.add_argument("--workers", type=int, default=1_000, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="N", help="seconds per kind of load (30)"
    )
    parser.add_argument("--wear", type=int, default=100_000, metavar="N")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="rounds per database (5)"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the server's data here")
    parser.add_argument("--explain", action="store_true", help="print the plans, too")
    arguments = parser.parse_args()
    rows: list[report.Row] = []
    with growth_server.server(arguments.folder) as postgres:
        parts: dict[str, Callable[[], list[report.Row]]] = {
            "steps": lambda: steps(postgres, arguments.rounds, arguments.explain),
            "worn": lambda: worn(postgres, arguments.rounds, arguments.explain, arguments.wear),
            "heartbeats": lambda: heartbeats(postgres, arguments.workers, arguments.seconds),
            "pages": lambda: pages(postgres, arguments.predictions),
        }
        growth_server.make_scenarios(postgres, arguments.scenarios)
        for name, part in parts.items():
            if arguments.only in ("", name):
                print(f"{name} …", file=sys.stderr, flush=True)
                rows += part()
    report.publish(rows, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
