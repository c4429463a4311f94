"""How long work is interrupted when something is killed, restarted or disappears.

    python benchmarks/recovery.py [--rounds N] [--only WORD] [--json FILE]

Starts its own PostgreSQL (synchronous_commit on), Apache Kafka and embedded broker, and real
processes that use them. Prints one table: event, n, p50, p95 and max in seconds, and the promise.
With --json also writes {"machine": …, "rows": [{"event", "n", "p50", "p95", "max", "promise"}]}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tests use the same modules, and check the promises

from tests.support import kafka, recovery  # noqa: E402
from tests.support.cluster import Cluster, clustered  # noqa: E402
from tests.support.durable_postgres import DurablePostgres, durable_postgres  # noqa: E402
from tests.support.kafka import HostedBroker, RealKafka  # noqa: E402
from tests.support.recovery import Host  # noqa: E402
from vidan.db import schema  # noqa: E402

PROMISES: Mapping[str, float] = {
    "worker killed, another free: claimed": 1.0,
    "worker killed, alone: released": 0.5,
    "worker killed, alone: claimed after its next start": 0.5,
    "host gone: claimed after its lease's end": 1.0,
    "PostgreSQL restarted (fast): work goes on": 5.0,
    "PostgreSQL restarted (immediate): work goes on": 5.0,
    "embedded broker restarted: announced again": 5.0,
    "embedded broker restarted: work goes on": 5.0,
    "Kafka restarted: announced again": 5.0,
    "Kafka restarted: work goes on": 5.0,
}


@dataclass(frozen=True, slots=True)
class Row:
    """The seconds that an event took in `n` rounds."""

    event: str
    n: int
    p50: float
    p95: float
    max: float
    promise: float


def row(event: str, seconds: list[float]) -> Row:
    """Summarise the measurements of an event."""
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Row(event, len(ordered), rank(0.5), rank(0.95), ordered[-1], PROMISES[event])


class Bench:
    """The servers, and a fresh cluster on them for each event."""

    def __init__(self, stack: ExitStack, rounds: int) -> None:
        self.rounds = rounds
        self.measured: dict[str, list[float]] = {}
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidan-bench-")))
        self._postgres: DurablePostgres = stack.enter_context(durable_postgres())
        self._numbers = itertools.count(1)
        self.embedded = HostedBroker(self._folder / "broker.address")
        self.embedded.start()
        stack.callback(self.embedded.stop)

    def note(self, event: str, seconds: float) -> None:
        """Keep a measurement."""
        assert event in PROMISES
        self.measured.setdefault(event, []).append(seconds)

    @contextmanager
    def cluster(
        self, *names: str, slots: int = 1, kafka: RealKafka | None = None
    ) -> Iterator[tuple[Cluster, list[Host]]]:
        """Run an orchestrator and workers on a database of their own for the block."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        url = self._postgres.create_database(folder.name)
        schema.upgrade(url)
        with clustered(folder, url, kafka or self.embedded) as made:
            made.orchestrator()
            yield made, recovery.start_hosts(made, *names, slots=slots)

    # --- events

    def worker_killed(self) -> None:
        """Kill a worker while another one is free."""
        with self.cluster("one", "two") as (cluster, _):
            for _ in range(3 * self.rounds):
                seconds = recovery.worker_killed_with_another_free(cluster, {"one", "two"})
                self.note("worker killed, another free: claimed", seconds)

    def worker_killed_alone(self) -> None:
        """Kill the only worker."""
        with self.cluster("one") as (cluster, _):
            for _ in range(2 * self.rounds):
                found = recovery.worker_killed_alone(cluster, "one")
                self.note("worker killed, alone: released", found.released)
                self.note("worker killed, alone: claimed after its next start", found.claimed)

    def host_gone(self) -> None:
        """Lose two hosts at once: one is switched off, one freezes."""
        for _ in range(self.rounds):
            with self.cluster("off", "frozen") as (cluster, hosts):
                held = recovery.one_each(cluster, hosts)
                recovery.start_hosts(cluster, "free", slots=2)
                gone = recovery.now(cluster)
                for host, number in zip(hosts, (signal.SIGKILL, signal.SIGSTOP), strict=True):
                    host.signal(cluster, number)
                for host in hosts:
                    late = recovery.seconds_after_lease(cluster, held[host.name], host, gone)
                    self.note("host gone: claimed after its lease's end", late)

    def postgres_restarted(self) -> None:
        """Restart PostgreSQL, unavailable for a second each time."""
        for _, how in itertools.product(range(self.rounds), ("fast", "immediate")):
            with self.cluster("w", slots=2) as (cluster, _):
                scenario_id = cluster.create(task="count", params={"model": "trial:slow"})
                cluster.wait_for_frames(scenario_id, 4)
                seconds = recovery.postgres_restarted(
                    cluster, self._postgres, how, 1.0, scenario_id
                )
                self.note(f"PostgreSQL restarted ({how}): work goes on", seconds)

    def embedded_broker_restarted(self) -> None:
        """Restart the embedded broker, on another port each time."""
        with self.cluster("w") as (cluster, _):
            self._broker_restarted(cluster, self.embedded, "embedded broker")

    def kafka_restarted(self) -> None:
        """Restart Kafka, unavailable for five seconds each time."""
        if lacking := kafka.fetch():
            print(f"Kafka is left out: {lacking}", file=sys.stderr)
            return
        folder = self._folder / "kafka"
        folder.mkdir()
        server = RealKafka(folder)
        server.start()
        try:
            with self.cluster("w", kafka=server) as (cluster, _):
                self._broker_restarted(cluster, server, "Kafka")
        finally:
            server.stop()

    def _broker_restarted(
        self, cluster: Cluster, server: RealKafka | HostedBroker, name: str
    ) -> None:
        cluster.wait(cluster.create(task="add", params={"a": 1}))
        for _ in range(self.rounds):
            found = recovery.broker_restarted(cluster, server, 5.0)
            self.note(f"{name} restarted: announced again", found.announced)
            self.note(f"{name} restarted: work goes on", found.worked)


def main() -> int:
    """Measure, print, write. Returns the exit code: 1 if a promise was broken at the median."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="rounds per event (1)")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="run only events whose name has WORD"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        bench = Bench(stack, arguments.rounds)
        events: tuple[Callable[[], None], ...] = (
            bench.worker_killed,
            bench.worker_killed_alone,
            bench.host_gone,
            bench.postgres_restarted,
            bench.embedded_broker_restarted,
            bench.kafka_restarted,
        )
        for event in events:
            if arguments.only in event.__name__:
                print(f"{event.__name__} …", file=sys.stderr, flush=True)
                event()
    rows = [row(event, bench.measured[event]) for event in PROMISES if event in bench.measured]
    print(f"{'event':52} {'n':>3} {'p50':>6} {'p95':>6} {'max':>6}  promise")
    for one in rows:
        figures = f"{one.n:3} {one.p50:6.2f} {one.p95:6.2f} {one.max:6.2f}"
        print(f"{one.event:52} {figures} {one.promise:6.1f} s")
    if arguments.json is not None:
        python = platform.python_version()
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {python}"
        report = {"machine": machine, "rows": [asdict(one) for one in rows]}
        arguments.json.write_text(json.dumps(report, indent=2))
    return int(any(one.p50 > one.promise for one in rows))


if __name__ == "__main__":
    sys.exit(main())
