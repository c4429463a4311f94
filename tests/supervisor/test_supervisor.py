"""The supervisor: stalls, restarts, errors that a restart won't fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.apps import trial
from tests.support.cluster import APPS, Cluster
from tests.support.processes import eventually, is_gone
from tests.support.supervising import running
from vidan.config import Settings
from vidan.detection.batcher import Batcher
from vidan.detection.cache import DetectorCache
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import DatabaseUnavailable, InputRejected, SchemaMismatch
from vidan.processes import lifeline
from vidan.processes.lifeline import Child
from vidan.processes.slotboard import Call, SlotBoard
from vidan.protocol import claims
from vidan.supervisor import devices, quarantine
from vidan.supervisor import post as post_module
from vidan.supervisor.devices import posts
from vidan.supervisor.post import Post
from vidan.supervisor.supervisor import Supervisor, supervise
from vidan.worker.lease import Lease, Measured


def test_a_hung_detector_ends_its_process_and_is_charged(
    embedded_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(post_module, "STALL_SECONDS", 2.0)
    monkeypatch.chdir(APPS)
    options = WorkerOptions(name="w", app="trial:app", threads=1, slots=2)
    with running(Supervisor(embedded_cluster.settings, [options])):
        find = "SELECT 1 FROM workers"
        assert eventually(lambda: embedded_cluster.query(find) != [], 30)
        neighbour = embedded_cluster.create(task="deaf", params={"seconds": 5})  # makes no call
        hung = embedded_cluster.create(task="count", params={"model": "trial:hanging"})
        assert eventually(lambda: embedded_cluster.get(hung).crashes == 1, 30)
        assert embedded_cluster.wait(neighbour).result == "slept"
        assert embedded_cluster.get(neighbour).crashes == 0


def test_an_app_that_is_not_there_ends_the_supervisor(embedded_cluster: Cluster) -> None:
    options = WorkerOptions(name="w", app="no_such_module:app")
    started = time.monotonic()
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "vidan.supervisor",
            "--posts",
            json.dumps([json.loads(options.to_json())]),
        ],
        env=embedded_cluster.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 10
    assert "no_such_module" in ended.stderr
    assert time.monotonic() - started < 30


def test_a_worker_that_hangs_in_its_app_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text("import os, time; os.write(1, b'in it\\n'); time.sleep(120)")
    options = WorkerOptions("w", app="stuck:app")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    worker = lifeline.spawn(
        "vidan.worker",
        ["--options", options.to_json()],
        env=environment,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"in it\n"
    worker.close()  # as if the supervisor had been killed
    assert worker.wait(10) == 1
    worker.stdout.close()


def test_an_old_schema_is_named(empty_database_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=empty_database_url)
    with pytest.raises(SchemaMismatch) as refused:
        supervise(settings, [WorkerOptions(name="w")])
    assert "vidan db upgrade" in (refused.value.hint or "")


def test_a_worker_whose_gpu_is_gone_claims_nothing(embedded_cluster: Cluster) -> None:
    """Each scenario that it claimed would fail. Its supervisor tries again: it may come back."""
    scenario_id = embedded_cluster.create()
    options = WorkerOptions(name="w", device="cuda:99", app="trial:app")
    ended = subprocess.run(
        [sys.executable, "-m", "vidan.worker", "--options", options.to_json()],
        env=embedded_cluster.environment,
        cwd=APPS,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "no such GPU: cuda:99" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert embedded_cluster.get(scenario_id).status is Status.INIT_STARTUP
    assert embedded_cluster.query("SELECT 1 FROM workers") == []


def test_a_registration_that_fails_leaves_the_one_before_to_be_followed(tmp_path: Path) -> None:
    """Otherwise the process that follows a dead one would not know that its worker was drained."""
    board = SlotBoard.create(1)
    board.worker_id = before = uuid.uuid4()
    lease = Lease(
        "postgresql://vidan@127.0.0.1:1/vidan", WorkerOptions("w"), ("t",), board,
        on_beat=lambda *_: None, on_end=lambda: None, measure=lambda: Measured("idle", 0.0),
        replaces=before,
    )  # fmt: skip
    with pytest.raises(DatabaseUnavailable):
        lease.begin()
    lease.close()
    assert board.worker_id == before
    board.close()


def test_started_without_a_database_it_says_so_in_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "vidan.supervisor", "--posts", "[]"],
        env={**os.environ, "DATABASE_URL": "postgresql://vidan@127.0.0.1:1/vidan"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == DatabaseUnavailable.exit_code
    (line,) = ended.stderr.splitlines()
    assert "can't reach the database" in line


def test_a_quarantine_child_is_asked_to_end_once(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the last steps of a process ends it as if it had died."""
    monkeypatch.setattr(quarantine, "CHECK_SECONDS", 0.0)
    asked: list[int] = []
    monkeypatch.setattr(Child, "terminate", lambda child: asked.append(child.pid))
    settings = Settings(home=tmp_path, database_url=database_url)
    supervisor = Supervisor(settings, [WorkerOptions("w", slots=2)])
    leaving = lifeline.spawn("http.server", ["0"])  # any process that stays
    board = SlotBoard.create(1)
    board.worker_id = uuid.uuid4()
    supervisor._quarantine.post = Post(WorkerOptions("w-quarantine"), leaving, board)

    for _ in range(3):
        supervisor._quarantine.keep()
    supervisor._posts[0].retired = True
    for _ in range(3):
        supervisor.run_once()
    supervisor._end_children(now=False)

    assert asked == [leaving.pid]
    leaving.kill()
    leaving.wait()
    leaving.close()
    board.close()


def test_quarantine_is_on_a_device_that_was_not_drained(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(claims, "suspects_due", lambda *_, **__: True)
    monkeypatch.setattr(Post, "start", lambda *_: None)
    settings = Settings(home=tmp_path, database_url=database_url)
    devices = ["cuda:0", "cuda:1"]
    supervisor = Supervisor(settings, [WorkerOptions("w", device=d, slots=2) for d in devices])

    supervisor._quarantine.keep()
    assert supervisor._quarantine.post is not None
    assert supervisor._quarantine.post.options.device == "cuda:0"
    supervisor._posts[0].retired = True
    supervisor._quarantine.keep()  # makes room
    supervisor._quarantine.keep()
    assert supervisor._quarantine.post is not None
    assert supervisor._quarantine.post.options.device == "cuda:1"


def test_a_child_that_was_asked_to_end_before_it_listened_has_not_died(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path, database_url=database_url)
    supervisor = Supervisor(settings, [WorkerOptions("w")])
    (post,) = supervisor._posts
    post.child, post.board = lifeline.spawn("http.server", ["0"]), SlotBoard.create(1)

    supervisor._end_children(now=False)
    post.child.wait()
    supervisor._reap(post)

    assert not supervisor.pids()
    assert post.deaths == 0
    assert caplog.text == ""


def test_a_second_signal_ends_now_and_charges_nobody(embedded_cluster: Cluster) -> None:
    child = embedded_cluster.supervisor()
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:hanging"})
    assert eventually(lambda: trial.HANGS in embedded_cluster.log(), 60)

    child.terminate()
    time.sleep(1)
    assert child.poll() is None  # the run can't be handed over: its detector hangs
    child.terminate()
    child.wait(15)

    scenario = embedded_cluster.get(scenario_id)
    assert scenario.status is Status.INIT_STARTUP
    assert (scenario.attempts, scenario.crashes) == (0, 0)


def test_stuck_code_does_not_keep_a_worker_whose_lease_has_ended(
    embedded_cluster: Cluster,
) -> None:
    child = embedded_cluster.supervisor()
    stuck = embedded_cluster.create(task="deaf")
    assert eventually(lambda: embedded_cluster.get(stuck).status is Status.ACTIVE, 30)
    pid = embedded_cluster.worker_pid()

    embedded_cluster.query("UPDATE workers SET lease_until = now() - interval '1 second'")
    time.sleep(7)  # a heartbeat: it knows
    child.terminate()

    assert child.wait(20) == 0
    assert is_gone(pid)


def test_waiting_for_another_slots_detector_is_no_call() -> None:
    board = SlotBoard.create(2)
    cache = DetectorCache()
    turns = threading.Semaphore(0)
    cache._batchers['{"model": "slow"}'] = Batcher(_Slow(turns)), None
    pixels = np.zeros((1, 2, 2, 3), np.uint8)

    def call(slot: int) -> None:
        board.take(slot, slot + 1)
        detector = cache.get(lambda kind: board.inside(slot, kind), model="slow")
        detector.submit(pixels, 2, 2).result()

    threads = [threading.Thread(target=call, args=(slot,)) for slot in range(2)]
    for thread in threads:
        thread.start()

    def inside() -> list[int]:
        return [slot for slot in range(2) if board._since(slot, Call.DETECTOR)]

    assert eventually(lambda: len(inside()) == 1)
    (first,) = inside()
    time.sleep(0.3)  # the other has come to it, too
    assert inside() == [first]
    turns.release()
    assert eventually(lambda: inside() == [1 - first])
    turns.release()
    for thread in threads:
        thread.join(30)
    assert inside() == []


class _Slow(Detector):
    """Each of its calls ends when it is let."""

    labels: tuple[str, ...] = ()
    accepts_mixed_sizes = True

    def __init__(self, turns: threading.Semaphore) -> None:
        self._turns = turns

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        self._turns.acquire()
        return [[]]


def test_posts_are_one_process_a_device() -> None:
    two = posts(cpus=2, slots=3, queues=["a", "b"])
    assert [one.device for one in two] == ["cpu", "cpu"]
    assert len({one.name for one in two}) == 2
    assert all(one.threads == 1 and one.slots == 3 and one.queues == ("a", "b") for one in two)


def test_options_of_many_workers_fit_into_one_argument() -> None:
    """Of 128 KiB, on Linux."""
    many = posts(cpus=1024, name="a-worker-with-quite-a-name", slots=2, queues=["default", "night"])
    line = json.dumps([json.loads(one.to_json()) for one in many])
    assert len(line) < 2**17
    assert [WorkerOptions.from_json(json.dumps(one)) for one in json.loads(line)] == many


def test_without_a_gpu_one_process_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    (one,) = posts(slots=8)
    assert (one.device, one.threads, one.slots) == ("cpu", None, 8)


@pytest.mark.parametrize("gpus", ["7", "x", "0,0", "-1"])
def test_a_gpu_that_is_not_there_is_refused(gpus: str) -> None:
    with pytest.raises(InputRejected):
        posts(gpus=gpus)


def test_devices_exclude_each_other() -> None:
    with pytest.raises(InputRejected, match="exclude"):
        posts(gpus="0", cpus=1)
