"""Hundreds of fuzzed videos in real processes: each ends by itself, failures with a clear error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import psutil
import pytest

from tests.fuzz import videos
from tests.fuzz.videos import Fuzzed
from tests.support.cluster import Cluster
from tests.support.folders import new_folder
from vidan.domain.status import ENDED, Status
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario

SEED = int(os.environ.get("FUZZ_SEED", "1"))
COUNT = int(os.environ.get("FUZZ_VIDEOS", str(4 * len(videos.KINDS))))
MEMORY_MB = 6000
"""Largest memory of a worker: eight slots of 8K need less, the absurd headers claim far more."""
SECONDS_A_VIDEO = 3.0
"""Longest time, in seconds, that a video may take on average."""
CLEAR = re.compile(
    r"F is empty|no video in F|no picture in F|not a video that can be read: F"
    r"|no decoder for the video in F|no frame of F can be decoded"
    r"|the file ends before its first picture: F"
    r"|the pictures of F are too large: \d+ x \d+, the most is \d+ million pixels"
    r"|F is a list of other files, and one of them can't be opened"
    r"|decord can't decode F: [a-zA-Z0-9 ,()_']+"
    r"|it ended its worker process \d+ times; at last (the worker died|it stalled).*"
)


@dataclass(frozen=True)
class Ended:
    """How the scenario of a file ended with one decoder."""

    fuzzed: Fuzzed
    decoder: str
    status: Status
    error: str | None
    crashes: int
    frames: tuple[tuple[int, int, float], ...]  # number, time, brightness
    gaps: tuple[tuple[int, int], ...]
    next_frame: int

    @property
    def outcome(self) -> str:
        if self.status is Status.COMPLETED:
            return "gaps" if self.gaps else "completed"
        return str(self.status)

    @property
    def what(self) -> str:
        """The error, with F in place of the file's path."""
        return (self.error or "").replace(str(self.fuzzed.path), "F")


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[list[Fuzzed]]:
    folder = new_folder()
    yield videos.make(folder / "videos", SEED, COUNT)


@pytest.mark.slow
def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> list[str]:
        made = videos.make(tmp_path / name, seed, len(videos.KINDS))
        return [hashlib.sha256(one.path.read_bytes()).hexdigest() for one in made]

    first = digests("first", 7)
    assert digests("second", 7) == first
    assert digests("other", 8) != first


@pytest.mark.slow
def test_every_video_ends_in_its_own_way(
    embedded_cluster: Cluster, fuzzed: list[Fuzzed], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor("first", slots=8)

    began = time.monotonic()
    undisturbed, memory = _run(cluster, fuzzed)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(_report(undisturbed, seconds, memory))

    crashed = [one for one in undisturbed if one.crashes]
    workers = cluster.query("SELECT name, pid FROM workers")
    assert crashed or len(workers) == 1, f"a worker was lost: {workers}\n{cluster.log()}"
    assert memory < MEMORY_MB
    for one in undisturbed:
        _check(one)

    again, _ = _run(cluster, fuzzed, kill=True)
    for before, after in zip(undisturbed, again, strict=True):
        where = f"{before.fuzzed.path.name} by {before.decoder}"
        assert after.outcome == before.outcome, (where, before.error, after.error)
        assert (after.next_frame, after.gaps) == (before.next_frame, before.gaps), where
        # how FFmpeg conceals damage may depend on earlier contents of its memory
        places = slice(None) if before.fuzzed.sound else slice(2)
        assert [one[places] for one in after.frames] == [one[places] for one in before.frames], (
            where
        )


def _run(cluster: Cluster, fuzzed: list[Fuzzed], *, kill: bool = False) -> tuple[list[Ended], int]:
    """Run all files with both decoders; returns how they ended, and the worker's peak memory."""
    todo = [(one, decoder) for one in fuzzed for decoder in ("pyav", "decord")]
    new = [
        NewScenario(
            task="count", source=str(one.path), params={"decoder": decoder, "model": "trial:quick"}
        )
        for one, decoder in todo
    ]
    with cluster.database.begin() as connection:
        ids = [one.id for one in creation.create_many(connection, new)]
    memory = 0
    deadline = time.monotonic() + 30 + SECONDS_A_VIDEO * len(todo)
    next_kill = time.monotonic() + 3.0
    left = "SELECT count(*) AS n FROM scenarios WHERE id = ANY(:ids) AND status <> ALL(:ended)"
    while (n := cluster.query(left, ids=ids, ended=[*ENDED])[0]["n"]) > 0:
        assert time.monotonic() < deadline, f"{n} have not ended\n{cluster.log()}"
        pid = cluster.worker_pid("first")
        try:
            memory = max(memory, psutil.Process(pid).memory_info().rss >> 20)
            if kill and time.monotonic() > next_kill:
                os.kill(pid, signal.SIGKILL)
                next_kill = time.monotonic() + 12.0
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass
        time.sleep(0.1)
    return [
        _ended(cluster, one, decoder, scenario_id)
        for (one, decoder), scenario_id in zip(todo, ids, strict=True)
    ], memory


def _ended(cluster: Cluster, fuzzed: Fuzzed, decoder: str, scenario_id: int) -> Ended:
    scenario = cluster.get(scenario_id)
    gaps = cluster.query(
        "SELECT from_frame, to_frame FROM gaps WHERE scenario_id = :id ORDER BY 1", id=scenario_id
    )
    charged = cluster.query(
        "SELECT count(*) AS n FROM transitions WHERE scenario_id = :id AND reason LIKE '%died%'",
        id=scenario_id,
    )
    (row,) = cluster.query("SELECT checkpoint FROM scenarios WHERE id = :id", id=scenario_id)
    return Ended(
        fuzzed,
        decoder,
        scenario.status,
        scenario.error,
        charged[0]["n"],
        tuple(
            (one.frame, one.time_ms, round(one.detections[0].score, 4))
            for one in cluster.frames(scenario_id)
        ),
        tuple((row["from_frame"], row["to_frame"]) for row in gaps),
        row["checkpoint"],
    )


def _check(one: Ended) -> None:
    where = f"{one.fuzzed.path.name} by {one.decoder}: {one.error}"
    assert one.status in (Status.COMPLETED, Status.FAILED), where
    if one.status is Status.FAILED:
        assert CLEAR.fullmatch(one.what), where
        assert one.decoder == "decord" or not one.fuzzed.sound, where
        return
    missing = {number for first, last in one.gaps for number in range(first, last + 1)}
    stored = [number for number, _, _ in one.frames]
    assert stored == sorted(set(stored)), where
    assert sorted([*stored, *missing]) == list(range(one.next_frame)), where
    assert [time for _, time, _ in one.frames] == sorted(time for _, time, _ in one.frames), where
    shown = _shown(one.fuzzed.path)
    if one.fuzzed.sound:
        assert (len(stored), missing) == (shown, set()), where
    else:
        # FFmpeg invents pictures where it notices that some are missing
        assert len(stored) + len(missing) >= shown * 0.8, where


def _shown(path: Path) -> int:
    """Count the pictures that plain PyAV decodes with one thread, past all errors."""
    count = 0
    with av.open(f"file:{path}") as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError:
                continue
            except IndexError:  # how PyAV ends a file in which further streams appeared
                return count
            if packet is None:
                return count
            with contextlib.suppress(av.FFmpegError):
                count += len(stream.codec_context.decode(packet if packet.size else None))


def _report(ended: list[Ended], seconds: float, memory: int) -> str:
    kinds = list(dict.fromkeys(one.fuzzed.kind for one in ended))
    lines = [
        f"\nseed {SEED}: {len(ended)} scenarios in {seconds:.0f} s, worker {memory} MB at most"
    ]
    for kind in kinds:
        counted = {
            decoder: Counter(
                one.outcome for one in ended if (one.fuzzed.kind, one.decoder) == (kind, decoder)
            )
            for decoder in ("pyav", "decord")
        }
        cells = [", ".join(f"{n} {what}" for what, n in one.items()) for one in counted.values()]
        lines.append(f"{kind:<18} {cells[0]:<40} {cells[1]}")
    errors = Counter(re.sub(r"\d+ x \d+|\d+ of \d+", "N", one.what) for one in ended if one.error)
    lines += [f"{count:>5} {error}" for error, count in errors.most_common()]
    lines += [f"crashed: {one.fuzzed.path.name} {one.decoder}" for one in ended if one.crashes]
    return "\n".join(lines)
