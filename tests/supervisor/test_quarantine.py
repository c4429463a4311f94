"""Several slots, one process: a scenario that kills it, or hangs in it, fails alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import videos
from tests.support.cluster import APPS, SAMPLE, SAMPLE_FRAMES, Cluster
from tests.support.processes import eventually
from tests.support.supervising import running
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.supervisor import post, quarantine
from vidan.supervisor.supervisor import Supervisor

LONGEST_PAUSE = 120.0
"""Seconds without a commit that a neighbour may have on a busy machine: mostly starts of processes.
"""


class Pauses:
    """The longest that each scenario went without a new frame, watched until all have ended."""

    def __init__(self, cluster: Cluster, ids: list[int]) -> None:
        self.longest = dict.fromkeys(ids, 0.0)
        self._cluster = cluster
        self._ids = ids

    def watch(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        seen: dict[int, tuple[int, float]] = {}
        sql = "SELECT id, frames_done, status FROM scenarios WHERE id = ANY(:ids)"
        ended = False
        while not ended:
            assert time.monotonic() < deadline, self._cluster.log()
            rows = self._cluster.query(sql, ids=self._ids)
            now = time.monotonic()
            for row in rows:
                frames, since = seen.get(row["id"], (0, now))
                if row["frames_done"] > frames or row["status"] == "completed":
                    seen[row["id"]] = (row["frames_done"], now)
                self.longest[row["id"]] = max(self.longest[row["id"]], now - since)
            ended = all(row["status"] in ("completed", "failed", "inactive") for row in rows)
            time.sleep(0.1)


@pytest.mark.parametrize(("manner", "at"), [("kill", 60), ("segfault", 0)])
def test_one_that_kills_its_process_among_eight_slots_fails_alone(
    manner: str, at: int, embedded_cluster: Cluster
) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(slots=8)
    neighbours = [cluster.create(task="count", params={"model": "trial:slow"}) for _ in range(7)]
    deadly = cluster.create(task="deadly", params={"at": at, "manner": manner})
    cluster.query("UPDATE scenarios SET max_crashes = 3 WHERE id = :id", id=deadly)

    pauses = Pauses(cluster, [*neighbours, deadly])
    pauses.watch(240)

    guilty = cluster.get(deadly)
    assert guilty.status is Status.FAILED
    assert "it ended its worker process 4 times; at last the worker died (SIG" in str(guilty.error)
    for neighbour in neighbours:
        scenario = cluster.get(neighbour)
        assert scenario.status is Status.COMPLETED, scenario.error
        assert [one.frame for one in cluster.frames(neighbour)] == list(range(SAMPLE_FRAMES))
        assert scenario.result == {"frames": SAMPLE_FRAMES}
        assert Status.FAILED not in cluster.statuses(neighbour)
    tried = "SELECT 1 FROM transitions WHERE scenario_id = :id AND actor LIKE '%quarantine'"
    assert cluster.query(tried, id=deadly), _history(cluster)
    for start, end in _quarantined(cluster, neighbours):  # none, if all were cleared before that
        # two commits, not a video: so no suspect waits for the end of a video
        stay = (end["at"] - start["at"]).total_seconds()
        if end["to_status"] == "completed":  # it was less than two commits from its video's end
            assert stay < 15, _history(cluster)
        else:
            assert end["reason"] == "cleared of suspicion", _history(cluster)
            assert stay < 15, _history(cluster)
    assert max(pauses.longest[one] for one in neighbours) < LONGEST_PAUSE, _history(cluster)


def _quarantined(
    cluster: Cluster, ids: list[int]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return how each stay in quarantine began, once its source was open, and how it ended."""
    rows = cluster.query(
        "SELECT scenario_id, at, to_status, reason FROM transitions WHERE scenario_id = ANY(:ids)"
        " AND actor LIKE '%quarantine' AND to_status <> 'init_startup_processing'"
        " ORDER BY scenario_id, id",
        ids=ids,
    )
    return list(zip(rows[::2], rows[1::2], strict=True))


def _history(cluster: Cluster) -> str:
    """Return every change of status, with the seconds since the first."""
    rows = cluster.query(
        "SELECT extract(epoch FROM at - min(at) OVER ())::real AS at, scenario_id, to_status,"
        " reason, actor FROM transitions ORDER BY id"
    )
    lines = (
        f"{row['at']:7.2f} {row['scenario_id']} {row['to_status']} {row['reason']} {row['actor']}"
        for row in rows
    )
    return "\n".join(lines)


def test_suspects_that_nobody_here_can_run_keep_no_process(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.supervisor(slots=2)
    foreign = cluster.create(task="detect", queue="elsewhere")
    unknown = cluster.create(task="add", params={"a": 1})
    cluster.query("UPDATE scenarios SET crashes = 2 WHERE id = :id", id=foreign)
    cluster.query("UPDATE scenarios SET crashes = 2, task = 'gone' WHERE id = :id", id=unknown)
    time.sleep(3 * quarantine.CHECK_SECONDS)
    assert cluster.query("SELECT 1 FROM workers WHERE name = 'w-quarantine'") == []

    mine = cluster.create(task="add", params={"a": 1})
    cluster.query("UPDATE scenarios SET crashes = 2 WHERE id = :id", id=mine)
    assert cluster.wait(mine).result == 2


@contextmanager
def _quick_to_lose_patience(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slots: int
) -> Iterator[None]:
    """A supervisor in this process whose stall limit is three seconds."""
    monkeypatch.setattr(post, "STALL_SECONDS", 3.0)
    monkeypatch.chdir(APPS)
    supervisor = Supervisor(
        cluster.settings, [WorkerOptions(name="w", app="trial:app", threads=1, slots=slots)]
    )
    with running(supervisor):
        assert eventually(lambda: cluster.query("SELECT 1 FROM workers") != [], 60)
        yield


@pytest.mark.parametrize("bytes_written", [0, 20_000])
def test_a_source_that_hangs_is_ended_by_the_stall_limit_and_fails_alone(
    bytes_written: int,
    embedded_cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A pipe that falls silent: nothing ends the read. Without a byte the opening hangs."""
    cluster = embedded_cluster
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ends: list[int] = []
    if bytes_written:  # read and write: neither end waits for the other, and it never closes
        ends.append(os.open(pipe, os.O_RDWR))
        os.write(ends[0], SAMPLE.read_bytes()[:bytes_written])
    cluster.orchestrator()
    try:
        with _quick_to_lose_patience(cluster, monkeypatch, tmp_path, slots=4):
            neighbours = [
                cluster.create(task="count", params={"model": "trial:slow"}) for _ in range(3)
            ]
            hung = cluster.create(task="count", source=str(pipe))
            cluster.query("UPDATE scenarios SET max_crashes = 2 WHERE id = :id", id=hung)

            scenario = cluster.wait(hung, 120)
            assert scenario.status is Status.FAILED
            assert scenario.error == (
                "it ended its worker process 3 times;"
                " at last it stalled: over 3 s in one call of the decoder"
            )
            for neighbour in neighbours:
                ended = cluster.wait(neighbour, 60)
                assert ended.status is Status.COMPLETED, ended.error
                assert ended.result == {"frames": SAMPLE_FRAMES}
                assert ended.crashes == 0
    finally:
        for end in ends:
            os.close(end)


def test_a_batch_of_four_scenarios_that_hangs_fails_the_guilty_one_alone(
    embedded_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The supervisor can't see whose frame hung. Charged scenarios get calls of their own later."""
    cluster = embedded_cluster
    black = videos.plain(tmp_path / "black.mp4", 0)
    bright = videos.plain(tmp_path / "bright.mp4", 200, frames=100)
    cluster.orchestrator()
    options = {"model": "trial:hanging_in_the_dark", "batch_size": 4}
    with _quick_to_lose_patience(cluster, monkeypatch, tmp_path, slots=4):
        sources = [bright, bright, black, bright]
        ids = [cluster.create(task="count", source=str(one), params=options) for one in sources]
        hung = ids.pop(2)
        cluster.query("UPDATE scenarios SET max_crashes = 2 WHERE id = :id", id=hung)
        scenario = cluster.wait(hung, 120)
        assert scenario.status is Status.FAILED
        assert "at last it stalled: over 3 s in one call of the detector" in str(scenario.error)
        for neighbour in ids:
            ended = cluster.wait(neighbour, 60)
            assert ended.status is Status.COMPLETED, _history(cluster)
            assert ended.result == {"frames": 100}
            assert ended.crashes <= 1, _history(cluster)
    quarantined = "SELECT 1 FROM transitions WHERE scenario_id = ANY(:ids) AND actor LIKE :actor"
    assert cluster.query(quarantined, ids=ids, actor="%quarantine") == [], _history(cluster)
