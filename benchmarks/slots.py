"""Eight scenarios in one worker process, compared with a bare loop over as many frames.

    python benchmarks/slots.py [--short] [--threads N] [--frames N] [--json FILE]

Starts a PostgreSQL with its defaults and an embedded broker of its own, makes a 720p video from the
sample, and runs in turn, A B B A, each time in a new process:

- the worker: eight scenarios at once, one model, everything stored; timed from the first decoded
  frame to the last scenario's end in the database;
- the bare loop: a thread decodes with PyAV, a loop calls the same detector, at the batch size that
  was fastest beforehand; timed from the first decoded frame to the last result. Nothing is stored.

The time before the first frame (process start, loading the model) is a figure of its own. Prints
one table; with --json also writes {"machine": …, "rows": [{"name", "ratio", …}]}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidan.protocol import creation

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
from sqlalchemy import text  # noqa: E402

from benchmarks import films, report  # noqa: E402
from tests.support.durable_postgres import durable_postgres  # noqa: E402
from tests.support.kafka import HostedBroker  # noqa: E402
from tests.support.stack import found  # noqa: E402
from vidan.db import schema  # noqa: E402
from vidan.db.session import Database  # noqa: E402
from vidan.domain.worker import WorkerOptions  # noqa: E402
from vidan.protocol.creation import NewScenario  # noqa: E402
from vidan.supervisor.post import MALLOC  # noqa: E402

SCENARIOS = 8
BATCHES = (1, 2, 4, 8)
POLL_S = 0.25
"""Seconds between polls for the end: answering one takes time of a core that is measured."""
WIDTH, HEIGHT = 1280, 720


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one turn of a side."""

    fps: float
    cpu_ms: float
    """CPU time of the process per frame, in milliseconds."""
    start: float
    """Seconds from the process's start to the first frame."""
    waits: list[float]
    """Seconds from decoded to result, for each frame."""
    memory: float = 0.0
    """Peak resident memory, MB."""
    fill: float = 0.0
    """Average number of frames per call of the detector."""
    built: int = 0
    """Number of detectors built."""
    spread: float = 0.0
    """Lead of the first scenario over the last at half-time, as a share of a scenario's frames."""


class Bench:
    """The servers, the videos, and both sides."""

    def __init__(self, stack: ExitStack, threads: int, frames: int) -> None:
        self.threads = threads
        self.frames = frames
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidan-bench-")))
        url = stack.enter_context(durable_postgres({})).create_database("slots")
        schema.upgrade(url)
        self._database = Database(url)
        stack.callback(self._database.close)
        broker = HostedBroker(self._folder / "broker.address")
        broker.start()
        stack.callback(broker.stop)
        settings = stack.enter_context(found(self._folder, url, broker))
        self._environment = settings.environment(
            {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads)}
        )
        self._videos = [self._folder / f"{number}.mp4" for number in range(SCENARIOS)]
        films.scaled(self._videos[0], HEIGHT, WIDTH, frames)
        for other in self._videos[1:]:
            os.link(self._videos[0], other)

    def bare(self, batch: int, videos: int = SCENARIOS) -> Figures:
        """Run the bare loop over the first `videos` videos."""
        command = [sys.executable, str(ROOT / "benchmarks" / "slots_bare.py")]
        command += ["--threads", str(self.threads), "--batch", str(batch)]
        began = time.time()
        done = subprocess.run(
            [*command, *map(str, self._videos[:videos])],
            env=self._environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        told = json.loads(done.stdout)
        assert told["frames"] == videos * self.frames, told["frames"]
        return Figures(
            fps=told["frames"] / (told["ended"] - told["first"]),
            cpu_ms=1e3 * told["cpu"] / told["frames"],
            start=told["first"] - began,
            waits=told["waits"],
            fill=batch,
        )

    def best_batch(self) -> int:
        """Return the fastest batch size of the bare loop, each tried twice on two videos."""
        tried = report.in_turn(
            2, *(lambda b=b: self.bare(b, 2).fps for b in BATCHES), warm_up=False
        )
        return max(zip(map(report.median, tried), BATCHES, strict=True))[1]

    def worker(self, slots: int = SCENARIOS) -> Figures:
        """Run one worker with as many scenarios as slots."""
        ids = self._create(slots)
        options = WorkerOptions("bench", slots=slots, threads=self.threads)
        noted_file = self._folder / "noted.json"
        command = [sys.executable, str(ROOT / "benchmarks" / "slots_worker.py"), str(noted_file)]
        began = time.time()
        child = psutil.Popen(
            [*command, "--options", options.to_json()],
            env=self._environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            memory = 0
            while (ended := self._ended(ids)) is None:
                assert child.poll() is None, "the worker died"
                memory = max(memory, child.memory_info().rss)
                time.sleep(POLL_S)
            spent = child.cpu_times()
        finally:
            child.terminate()
            child.wait(30)
        noted = json.loads(noted_file.read_text())
        frames = slots * self.frames
        assert len(noted["waits"]) == frames, len(noted["waits"])
        return Figures(
            fps=frames / (ended - noted["first"]),
            cpu_ms=1e3 * (spent.user + spent.system - noted["cpu"]) / frames,
            start=noted["first"] - began,
            waits=noted["waits"],
            memory=memory / 2**20,
            fill=frames / len(noted["calls"]),
            built=noted["built"],
            spread=spread(noted["steps"], frames) / self.frames,
        )

    def _create(self, count: int) -> list[int]:
        new = [NewScenario(source=str(video)) for video in self._videos[:count]]
        with self._database.begin() as connection:
            return [one.id for one in creation.create_many(connection, new)]

    def _ended(self, ids: Sequence[int]) -> float | None:
        """Return the Unix time of the last end, None before; check that all is stored."""
        sql = (
            "SELECT extract(epoch FROM max(ended_at)) AS at, count(ended_at) AS ended,"
            " string_agg(DISTINCT status, ' ') AS statuses FROM scenarios WHERE id = ANY(:ids)"
        )
        stored = "SELECT count(*) FROM predictions WHERE scenario_id = ANY(:ids)"
        with self._database.begin() as connection:
            found: Any = connection.execute(text(sql), {"ids": list(ids)}).one()
            if found.ended < len(ids):
                return None
            assert found.statuses == "completed", found
            count = connection.execute(text(stored), {"ids": list(ids)}).scalar_one()
            assert count == len(ids) * self.frames, count
        return float(found.at)


def spread(steps: Sequence[tuple[int, float, int]], frames: int) -> int:
    """Return by how many frames the first scenario led the last when half of all were done."""
    done: dict[int, int] = {run: 0 for run, _, _ in steps}
    for run, _, count in sorted(steps, key=lambda step: step[1]):
        done[run] += count
        if 2 * sum(done.values()) >= frames:
            break
    return max(done.values()) - min(done.values())


def compare(bench: Bench, rounds: int) -> list[report.Row]:
    """Run both sides in turn and compare their medians."""
    batch = bench.best_batch()
    ours, bare = report.in_turn(rounds, bench.worker, lambda: bench.bare(batch), warm_up=False)

    def middle(figures: Sequence[Figures], name: str) -> float:
        return report.median([getattr(one, name) for one in figures])

    def both(name: str) -> tuple[float, dict[str, report.Cell]]:
        mine, other = middle(ours, name), middle(bare, name)
        return mine / other, {"median": mine, "beside": other}

    waits = [wait for one in ours for wait in one.waits]
    bare_waits = [wait for one in bare for wait in one.waits]
    return [
        report.Row(
            f"fps, {SCENARIOS} scenarios in one worker / bare loop, batch {batch},"
            f" {bench.threads} threads each",
            *both("fps"),
            ">= 1.0",
        ),
        report.Row("CPU-ms a frame", *both("cpu_ms")),
        report.Row("s from the process's start to the first frame", *both("start")),
        *(
            report.Row(
                f"wait of a frame, decoded to result, s, p{round(100 * share)}",
                None,
                {
                    "median": report.quantile(waits, share),
                    "beside": report.quantile(bare_waits, share),
                },
            )
            for share in (0.5, 0.99)
        ),
        report.Row("frames a call", None, {"median": middle(ours, "fill"), "beside": batch}),
        report.Row("models in memory", None, {"median": max(one.built for one in ours)}),
        report.Row(
            "first before last scenario at half-time, share of a video",
            None,
            {"median": middle(ours, "spread")},
        ),
        report.Row(f"MB with {SCENARIOS} slots", None, {"median": middle(ours, "memory")}),
    ]


def main() -> int:
    """Compare, print, write. Returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--short", action="store_true", help="two rounds of few frames")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--frames", type=int, default=32, help="frames per scenario")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    frames, rounds = (16, 2) if arguments.short else (arguments.frames, arguments.rounds)
    with ExitStack() as stack:
        bench = Bench(stack, arguments.threads, frames)
        rows = compare(bench, rounds)
        for slots in (1, 2):
            figures = bench.worker(slots)
            rows.append(report.Row(f"MB with {slots} slots", None, {"median": figures.memory}))
    report.publish(rows, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
