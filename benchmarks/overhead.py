"""What vidan costs over a bare loop of decoding and inference on the same video.

    python benchmarks/overhead.py [--only WORD] [--rounds N] [--seconds S] [--short] [--json FILE]

V is vidan: an orchestrator, a supervisor and its worker, as real processes with a PostgreSQL and an
embedded broker of their own. It is timed from the scenario's creation to `completed`, with the
model loaded. B is the best bare loop (benchmarks/bare_loop.py): a thread decodes and scales, the
same detector takes the same batches in as many threads, with the worker's malloc settings; nothing
is sent or stored. Both run in turn (V B B V …) while the other one is stopped. The CPU time of V
includes everything: worker, supervisor, orchestrator, broker, PostgreSQL. A ratio is the median of
the ratios of neighbouring runs. D (only decoding) and F (only inference) show how far B is from
what is possible. `start V` lasts from the start of the supervisor to the first stored frame,
`start B` from the start of the loop until its model is ready.

One process of one thread each, then `--cpus 2`: two processes of one thread, two videos at once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from vidan.protocol import creation

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import films, report, untrained  # noqa: E402
from benchmarks.bare_loop import Options, Ran, decoded  # noqa: E402
from tests.support.cluster import Cluster, clustered  # noqa: E402
from tests.support.durable_postgres import DurablePostgres, durable_postgres  # noqa: E402
from tests.support.kafka import HostedBroker  # noqa: E402
from vidan.db import schema  # noqa: E402
from vidan.detection.building import build_detector  # noqa: E402
from vidan.domain.status import ENDED, Status  # noqa: E402
from vidan.protocol.creation import NewScenario  # noqa: E402
from vidan.services.scenarios import Scenario  # noqa: E402
from vidan.supervisor.post import MALLOC  # noqa: E402

MODELS = (
    "nanodet-g",
    "torchvision/ssdlite320_mobilenet_v3_large",
    "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn",
)
REJOIN_SECONDS = 8.0
"""Seconds in which a worker that was stopped registers again and gets its partitions back."""
SIZES = {"720p": (720, 1280), "1080p": (1080, 1920)}


@dataclass(frozen=True, slots=True)
class Work:
    """A detector on a video of some frames."""

    model: str
    weights: Path | None
    min_score: float
    video: Path
    frames: int

    @property
    def params(self) -> dict[str, object]:
        """The scenario's parameters."""
        found: dict[str, object] = {"model": self.model, "min_score": self.min_score}
        return found if self.weights is None else {**found, "weights": str(self.weights)}

    def options(self) -> Options:
        """Return the options of the bare loop for the same work."""
        weights = None if self.weights is None else str(self.weights)
        return Options(str(self.video), self.model, weights, self.min_score)


class Bare:
    """Some bare loops in parallel, each in a process of its own."""

    def __init__(self, work: Work, processes: int) -> None:
        began = time.perf_counter()
        self._children = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.bare_loop", work.options().as_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, **MALLOC},
            )
            for _ in range(processes)
        ]
        for child in self._children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("a bare loop did not start")
        self.start = time.perf_counter() - began

    def run(self, mode: str = "loop") -> Ran:
        """Run all loops once and add up their figures; the time is that until the last one ends."""
        began = time.perf_counter()
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{mode}\n")
            child.stdin.flush()
        ran = []
        for child in self._children:
            assert child.stdout is not None
            ran.append(Ran(**json.loads(child.stdout.readline())))
        wall = time.perf_counter() - began
        return Ran(
            wall,
            sum(one.cpu for one in ran),
            sum(one.frames for one in ran),
            sum(one.detections for one in ran),
        )

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.communicate()


class Framework:
    """vidan, with workers of one thread each."""

    def __init__(
        self, cluster: Cluster, work: Work, postgres: psutil.Process, broker: psutil.Process
    ) -> None:
        self._cluster = cluster
        self._work = work
        self._postgres = postgres
        self._broker = broker
        self.start = 0.0

    def begin(self, workers: int) -> None:
        """Start the processes, and wait until each worker has stored its first frame."""
        self._cluster.orchestrator()
        began = time.perf_counter()
        self._cluster.supervisor(workers=workers)
        first = self._create(workers)
        for scenario_id in first:
            self._cluster.wait_for_frames(scenario_id, 1, 120)
        self.start = time.perf_counter() - began
        for scenario_id in first:
            self._cluster.wait(scenario_id, 600)

    def run(self, scenarios_at_once: int) -> Ran:
        """Run scenarios in parallel, timed from their creation to the last one's end."""
        cpu = self._cpu()
        ids = self._create(scenarios_at_once)
        ended = [self._wait(one) for one in ids]
        cpu = self._cpu() - cpu
        for one in ended:
            assert one.status is Status.COMPLETED, one.error
            assert one.frames_done == self._work.frames, one
        seconds = self._cluster.query(
            "SELECT extract(epoch FROM max(ended_at) - min(created_at))::float8 AS s,"
            " (SELECT sum(cardinality(scores)) FROM predictions WHERE scenario_id = ANY(:ids)) AS d"
            " FROM scenarios WHERE id = ANY(:ids)",
            ids=ids,
        )[0]
        frames = sum(one.frames_done for one in ended)
        return Ran(float(seconds["s"]), cpu, frames, int(seconds["d"]))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop all processes except PostgreSQL's for the block: even idle ones use some CPU."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()
            time.sleep(REJOIN_SECONDS)

    def _wait(self, scenario_id: int) -> Scenario:
        """Wait for a scenario's end, polling rarely: polling is not a cost of vidan."""
        while (found := self._cluster.get(scenario_id)).status not in ENDED:
            time.sleep(0.3)
        return found

    def _create(self, count: int) -> list[int]:
        new = NewScenario(str(self._work.video), "detect", self._work.params)
        with self._cluster.database.begin() as connection:
            return [one.id for one in creation.create_many(connection, [new] * count)]

    def _processes(self) -> list[psutil.Process]:
        found = [self._broker]
        for child in self._cluster.children():
            found += [child, *child.children(recursive=True)]
        return found

    def _cpu(self) -> float:
        """Return the CPU seconds of all processes; ended ones count by their parents."""
        found = 0.0
        for process in [*self._processes(), self._postgres, *self._postgres.children()]:
            times = process.cpu_times()
            found += times.user + times.system + times.children_user + times.children_system
        return found


class Bench:
    """The servers, the videos, and what is compared on them."""

    def __init__(self, stack: ExitStack, rounds: int, seconds: float) -> None:
        self._rounds = rounds
        self._seconds = seconds
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidan-bench-")))
        self._postgres: DurablePostgres = stack.enter_context(durable_postgres({}))
        self._broker = HostedBroker(self._folder / "broker.address")
        self._broker.start()
        stack.callback(self._broker.stop)

    def compare(self, name: str, model: str, size: str, processes: int) -> list[report.Row]:
        """Run V and B in turn on one video."""
        work = self._work(model, *SIZES[size])
        bare = Bare(work, processes)
        try:
            with self._framework(work, processes) as framework:

                def v() -> Ran:
                    return framework.run(processes)

                def b() -> Ran:
                    with framework.stopped():
                        return bare.run()

                ours, theirs = report.in_turn(self._rounds, v, b)
                with framework.stopped():
                    decode, infer = bare.run("decode"), bare.run("infer")
        finally:
            bare.close()
        name = re.sub("torchvision/|_mobilenet[^ ,]*", "", name)
        start = {"start V": framework.start, "start B": bare.start}
        limits = {"D": decode.frames / decode.wall, "F": infer.frames / infer.wall}
        return [
            _row(f"{name}: frames/s", ours, theirs, _speed, ">= 0.97", {**limits, **start}),
            _row(f"{name}: CPU ms/frame", ours, theirs, _cost, "<= 1.05", {}),
        ]

    @contextmanager
    def _framework(self, work: Work, workers: int) -> Iterator[Framework]:
        folder = self._folder / f"{work.video.stem}-{workers}-{time.monotonic_ns()}"
        folder.mkdir()
        url = self._postgres.create_database(folder.name)
        schema.upgrade(url)
        with clustered(folder, url, self._broker) as cluster:
            assert self._postgres.pid is not None
            servers = [psutil.Process(one.pid) for one in (self._postgres, self._broker)]
            made = Framework(cluster, work, *servers)
            made.begin(workers)
            yield made

    def _work(self, model: str, height: int, width: int) -> Work:
        """Make a video whose detection takes about as many seconds as were asked for."""
        weights, score = None, 0.35
        network = model.removeprefix("torchvision/")
        if network != model:
            weights = untrained.save(network, self._folder / f"{network}.pt")
        detector = build_detector(
            model, weights=None if weights is None else str(weights), threads=1
        )
        size = detector.decode_size(height, width)
        some = next(decoded(str(films.SAMPLE), size, 8))
        if weights is not None:
            score = untrained.min_score(network, weights, some)
        detector.detect(some, width, height)
        with report.spending() as spent:
            detector.detect(some, width, height)
        batch = detector.batch_size
        frames = max(batch, round(self._seconds * len(some) / spent.wall / batch) * batch)
        video = self._folder / f"{height}-{frames}.mp4"
        if not video.exists():
            films.scaled(video, height, width, frames)
        return Work(model, weights, score, video, frames)


def _speed(ran: Ran) -> float:
    return ran.frames / ran.wall


def _cost(ran: Ran) -> float:
    return 1000 * ran.cpu / ran.frames


def _row(
    name: str,
    ours: list[Ran],
    theirs: list[Ran],
    figure: Callable[[Ran], float],
    promise: str,
    more: dict[str, report.Cell],
) -> report.Row:
    v, b = [figure(one) for one in ours], [figure(one) for one in theirs]
    ratio = report.paired(v, b)
    found = [one.detections / one.frames for one in ours]
    figures: dict[str, report.Cell] = {"V": report.median(v), "B": report.median(b), **more}
    return report.Row(name, ratio, {**figures, "found/frame": report.median(found)}, promise)


def main() -> int:
    """Compare, print, write. Returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument(
        "--only",
        default="",
        metavar="WORD",
        help="run only comparisons whose name has WORD: nanodet, 1080p, cpus, …",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="rounds per comparison (5)"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="seconds per run (10)"
    )
    parser.add_argument("--short", action="store_true", help="the built-in detector, 720p, 3 x 4 s")
    arguments = parser.parse_args()
    if arguments.short:
        wanted = [(MODELS[0], "720p", 1)]
        arguments.rounds, arguments.seconds = 3, 4.0
    else:
        wanted = [(model, size, 1) for model in MODELS for size in SIZES]
        wanted += [(model, "720p", 2) for model in MODELS]
    rows: list[report.Row] = []
    with ExitStack() as stack:
        bench = Bench(stack, arguments.rounds, arguments.seconds)
        for model, size, processes in wanted:
            name = f"{model} {size}" + (f", --cpus {processes}" if processes > 1 else "")
            if arguments.only in name:
                print(f"{name} …", file=sys.stderr, flush=True)
                rows += bench.compare(name, model, size, processes)
    report.publish(rows, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
