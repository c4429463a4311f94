"""Whether a worker's memory stays flat over a million frames, and what a slot costs.

    python benchmarks/memory.py [--frames N] [--json FILE]

A real worker runs one scenario over a source of N frames (the same 250 repeated, 64x48, in one
Matroska file with ascending timestamps), with a detector that costs nothing but finds two things in
every frame. Its resident memory is read ten times per second. `bytes/frame` is the slope of a line
fitted to the values after the first tenth of the frames; the ratio is the median of the last
quarter over that of the second. Then workers with 1, 2, 4 and 8 slots run as many scenarios with
the built-in detector on 720p, to show what a slot costs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from benchmarks.films import scaled  # noqa: E402
from tests.support import videos  # noqa: E402
from tests.support.cluster import Cluster, clustered  # noqa: E402
from tests.support.durable_postgres import DurablePostgres, durable_postgres  # noqa: E402
from tests.support.kafka import HostedBroker  # noqa: E402
from vidan.db import schema  # noqa: E402
from vidan.domain.status import ENDED, Status  # noqa: E402

LOOP = 250
SLOTS = (1, 2, 4, 8)
SLOT_FRAMES = 60


def looped(path: Path, frames: int) -> Path:
    """Write a video of `frames` frames: LOOP frames are encoded once and muxed repeatedly."""
    once = videos.encode(path.with_name("once.mp4"), LOOP)
    with av.open(str(once)) as source:
        template = source.streams.video[0]
        packets = [packet for packet in source.demux(template) if packet.pts is not None]
        with av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(template)
            step = Fraction(1, 25)
            for number in range(frames):
                packet, round_ = packets[number % LOOP], number // LOOP
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base = stream, packet.time_base
                assert packet.time_base and packet.pts is not None and packet.dts is not None
                offset = int(round_ * LOOP * step / packet.time_base)
                copy.pts, copy.dts = packet.pts + offset, packet.dts + offset
                copy.is_keyframe = packet.is_keyframe
                output.mux(copy)
    return path


class Bench:
    """The servers, and a cluster on them for each worker that is measured."""

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidan-bench-")))
        self._postgres: DurablePostgres = stack.enter_context(durable_postgres({}))
        self._broker = HostedBroker(self.folder / "broker.address")
        self._broker.start()
        stack.callback(self._broker.stop)

    @contextmanager
    def cluster(self, slots: int) -> Iterator[Cluster]:
        """Run one worker with `slots` slots for the block."""
        folder = self.folder / f"{slots}-{time.monotonic_ns()}"
        folder.mkdir()
        url = self._postgres.create_database(folder.name)
        schema.upgrade(url)
        with clustered(folder, url, self._broker) as cluster:
            cluster.environment["PYTHONPATH"] = str(ROOT)
            cluster.orchestrator()
            cluster.supervisor(slots=slots)
            yield cluster


def flat(bench: Bench, frames: int) -> report.Row:
    """Run one scenario over `frames` frames, and fit a line to the worker's memory."""
    source = str(looped(bench.folder / "looped.mkv", frames))
    with bench.cluster(1) as cluster:
        process = psutil.Process(cluster.worker_pid())
        params = {"model": "benchmarks.blank:blank"}
        scenario_id = cluster.create(task="detect", source=source, params=params)
        began = time.perf_counter()
        read: list[tuple[int, int]] = []  # frames done, bytes
        while (found := cluster.get(scenario_id)).status not in ENDED:
            read.append((found.frames_done, process.memory_info().rss))
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        assert found.status is Status.COMPLETED, found.error
        assert found.frames_done == frames, found
        assert cluster.worker_pid() == process.pid
    warm = [one for one in read if one[0] > frames / 10]
    slope = statistics.linear_regression(*zip(*warm, strict=True)).slope
    second = [rss for done, rss in read if frames / 4 < done <= frames / 2]
    last = [rss for done, rss in read if done > frames * 3 / 4]
    growth = report.median(last) / report.median(second)
    figures: dict[str, report.Cell] = {
        "MB": report.median(last) / 1e6,
        "bytes/frame": slope,
        "frames/s": frames / seconds,
    }
    return report.Row(f"worker over {frames:,} frames", growth, figures, "<= 1.02")


def slot(bench: Bench, slots: int, source: Path, alone: float | None) -> report.Row:
    """Run a scenario in each of `slots` slots; the ratio is to the worker with one slot."""
    with bench.cluster(slots) as cluster:
        process = psutil.Process(cluster.worker_pid())
        ids = [cluster.create(task="detect", source=str(source)) for _ in range(slots)]
        most = 0
        while any(cluster.get(one).status not in ENDED for one in ids):
            most = max(most, process.memory_info().rss)
            time.sleep(0.1)
        assert all(cluster.get(one).status is Status.COMPLETED for one in ids)
    megabytes = most / 1e6
    figures: dict[str, report.Cell] = {"MB": megabytes}
    if alone is not None:
        figures["MB/slot more"] = (megabytes - alone) / (slots - 1)
    ratio = None if alone is None else megabytes / alone
    return report.Row(f"worker of {slots} slots, nanodet-g 720p", ratio, figures)


def main() -> int:
    """Measure, print, write. Returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, metavar="N")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        bench = Bench(stack)
        rows = [flat(bench, arguments.frames)]
        film = scaled(bench.folder / "720.mp4", 720, 1280, SLOT_FRAMES)
        alone: float | None = None
        for slots in SLOTS:
            rows.append(slot(bench, slots, film, alone))
            alone = alone or float(rows[-1].figures["MB"] or 0)
    report.publish(rows, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
