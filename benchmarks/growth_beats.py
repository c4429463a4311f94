"""What PostgreSQL spends on a thousand idle workers, and how many updates of commits are HOT."""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import psutil
import psycopg
from sqlalchemy import text

from benchmarks import report
from vidan.db.session import Database
from vidan.domain.worker import RENEW_SECONDS
from vidan.protocol import claims, creation, heartbeats, lifecycle, waiting
from vidan.protocol.claims import Claimant
from vidan.protocol.commits import Batch, Row, commit
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import DETECT
from vidan.worker.lease import BEATS_A_COUNT
from vidan.worker.polling import SWEEP_SECONDS, SWEEPS_PER_SECOND

T = TypeVar("T")

THREADS = 4


def cpu_seconds(postmaster: int) -> float:
    """Return the CPU seconds of all processes of a server so far, ended ones included."""
    server = psutil.Process(postmaster)
    own = server.cpu_times()
    spent = own.user + own.system + own.children_user + own.children_system
    for process in server.children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent += times.user + times.system
    return float(spent)


@dataclass(frozen=True, slots=True)
class Updates:
    """The number of updates of a table, and of those that were HOT."""

    all: int
    hot: int

    @classmethod
    def of(cls, url: str, table: str) -> Updates:
        """Read the server's statistics, after the sessions have reported theirs."""
        time.sleep(1.5)
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s",
                [table],
            ).fetchone()
        assert row is not None
        return cls(*row)


class Fleet:
    """Simulated workers on one database: each beats and sweeps at the intervals of a real one."""

    def __init__(self, url: str, postmaster: int, count: int) -> None:
        self._url = url
        self._postmaster = postmaster
        self._ids = [uuid.uuid4() for _ in range(count)]
        self._database = Database(url, guarded=True, pool_size=THREADS)
        self._pulse = Database(
            url, guarded=True, pool_size=THREADS, durable=False
        )  # as in a worker
        with self._database.begin() as connection:
            connection.execute(text("DELETE FROM workers WHERE name LIKE 'beat-%'"))
            for number, one in enumerate(self._ids):
                heartbeats.register(
                    connection,
                    heartbeats.Registration(
                        one, f"beat-{number}", f"host-{number}", number, "cpu", 1, ("idle",),
                        ("detect",),
                    ),
                )  # fmt: skip

    def close(self) -> None:
        """Delete the workers."""
        with self._database.begin() as connection:
            connection.execute(text("DELETE FROM workers WHERE name LIKE 'beat-%'"))
        self._database.close()
        self._pulse.close()

    def rows(self, seconds: float) -> list[report.Row]:
        """Measure a period without load, then one with heartbeats and one with sweeps."""
        count = len(self._ids)
        before = Updates.of(self._url, "workers")
        idle, _ = self._share(partial(time.sleep, seconds / 3))
        kinds: dict[str, tuple[float, Callable[[uuid.UUID], None]]] = {
            "heartbeats": (RENEW_SECONDS, self._beat),
            "sweeps": (max(SWEEP_SECONDS, count / SWEEPS_PER_SECOND), self._sweep),
        }
        shares, found = [], []
        for name, (interval, work) in kinds.items():
            share, done = self._share(partial(self._play, interval, work, seconds))
            shares.append(share - idle)
            figures = {"% of a core": 100 * (share - idle), "a second": done / seconds}
            found.append(report.Row(f"{name} of {count} workers", None, {**figures}))
        self._pulse.close()  # so that its sessions report their statistics
        after = Updates.of(self._url, "workers")
        both = {"% of a core": 100 * sum(shares)}
        updates = after.all - before.all
        hot = {"HOT %": 100 * (after.hot - before.hot) / updates, "updates": updates}
        return [
            report.Row("PostgreSQL, nothing to do", None, {"% of a core": 100 * idle}),
            *found,
            report.Row("both", sum(shares) / 0.1, {**both}, "<= 1, of 10 %"),
            report.Row("updates of heartbeats", None, {**hot}, "all HOT"),
        ]

    def _share(self, block: Callable[[], T]) -> tuple[float, T]:
        """Return the share of a core that the server used in `block`, and the block's result."""
        began, spent = time.perf_counter(), cpu_seconds(self._postmaster)
        done = block()
        return (cpu_seconds(self._postmaster) - spent) / (time.perf_counter() - began), done

    def _play(self, interval: float, work: Callable[[uuid.UUID], None], seconds: float) -> int:
        """Let each worker do `work` at its interval, with a real one's jitter; return the count."""
        with self._database.begin() as connection:  # sweeps are measured without heartbeats
            connection.execute(text("UPDATE workers SET lease_until = now() + interval '1 hour'"))
        began = time.monotonic()
        due = [(began + random.uniform(0, interval), one.int) for one in self._ids]
        heapq.heapify(due)
        lock = threading.Lock()
        counts = []

        def go() -> None:
            done = 0
            while True:
                with lock:
                    at, number = heapq.heappop(due)
                    heapq.heappush(due, (at + interval * random.uniform(0.75, 1.25), number))
                if at > began + seconds:
                    break
                time.sleep(max(0.0, at - time.monotonic()))
                work(uuid.UUID(int=number))
                done += 1
            counts.append(done)

        threads = [threading.Thread(target=go) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    def _beat(self, worker_id: uuid.UUID) -> None:
        count = random.randrange(BEATS_A_COUNT) == 0
        with self._pulse.autocommit() as connection:
            beat = heartbeats.beat(connection, worker_id, state="idle", fps=0.0, count=count)
        assert beat is not None

    def _sweep(self, _worker_id: uuid.UUID) -> None:
        with self._database.autocommit() as connection:
            (seen,) = waiting.look(connection, ("idle",), ("detect",))
        assert not seen.due


def commits(url: str, count: int = 2_000, running: int = 50) -> report.Row:
    """Return how many updates of commits are HOT; scenarios commit thirty frames in turn."""
    database = Database(url, guarded=True)
    worker_id = uuid.uuid4()
    with database.begin() as connection:
        heartbeats.register(
            connection,
            heartbeats.Registration(
                worker_id, "commits", "bench", 1, "cpu", running, ("commits",), ("detect",)
            ),
        )
        creation.create_many(connection, [NewScenario(source="/a.mp4", queue="commits")] * running)
    with database.begin() as connection:
        taken = {DETECT.name: (DETECT.definition,)}
        claimant = Claimant(worker_id, "commits", ("commits",), ("detect",), definitions=taken)
        fences = [one.fence for one in claims.claim(connection, claimant, running)]
        lifecycle.start(connection, fences, actor="commits")
    database.close()  # so that claims and starts, which are not HOT, are reported now
    before = Updates.of(url, "scenarios")
    database = Database(url, guarded=True)
    for number in range(count):
        first = number // running * 30
        state = json.dumps({"seen": list(range(number % 40))})
        rows = [Row(first + n, 0, [0], [0.5], [0.0, 0.0, 9.0, 9.0]) for n in range(30)]
        batch = Batch(first, first + 30, first, state, ["person"], rows, clear_budgets=first == 30)
        with database.begin() as connection:
            commit(connection, fences[number % running], batch)
    database.close()  # so that its sessions report their statistics
    after = Updates.of(url, "scenarios")
    with database.begin() as connection:
        ids = [fence.scenario_id for fence in fences]
        lifecycle.hand_over(connection, fences, reason="measured", actor="commits")
        connection.execute(
            text("DELETE FROM predictions WHERE scenario_id = ANY(:ids)"), {"ids": ids}
        )
        connection.execute(text("DELETE FROM scenarios WHERE id = ANY(:ids)"), {"ids": ids})
        connection.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker_id})
    database.close()
    updates = after.all - before.all
    hot = {"HOT %": 100 * (after.hot - before.hot) / updates, "updates": updates}
    return report.Row("updates of commits", None, {**hot}, "all HOT")
