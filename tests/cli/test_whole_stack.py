"""`vidan run` and `vidan up`: from nothing to results, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from tests.support.processes import eventually
from tests.support.videos import encode, truncated
from vidan.stack_state import KEEPER_LOCK, is_held

if TYPE_CHECKING:
    from tests.support.shell import Shell


@pytest.fixture
def home(bare: Shell, vidan_home: Path) -> Iterator[Path]:
    """An embedded stack's folder, used by the command; what is left of its processes is ended."""
    bare.environment["VIDAN_HOME"] = str(vidan_home)
    yield vidan_home
    for process in _processes_of(vidan_home):
        process.kill()


def _processes_of(home: Path) -> list[psutil.Process]:
    """The processes that were started with this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VIDAN_HOME") == str(home):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def _nothing_is_left(home: Path) -> bool:
    return not _processes_of(home) and not is_held(home / KEEPER_LOCK, exclusively=True)


def test_run_analyses_a_video_with_nothing_but_this_machine(
    bare: Shell, home: Path, video: Path
) -> None:
    ended = bare.run("run", video, "--every", 50, "--out", "results", "--json", "--cpus", 1)

    assert ended.code == 0, ended.err
    summary = ended.json()
    assert summary["status"] == "completed"
    assert summary["frames"] == 4
    assert summary["frames_with"]["person"] == 4
    lines = (bare.folder / "results" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 50, 100, 150]
    assert (bare.folder / "results" / "annotated.mp4").stat().st_size > 10_000
    assert eventually(lambda: _nothing_is_left(home)), _processes_of(home)

    # what was stored is there when the run has ended
    shown = bare.run("predictions", "show", 1, "--json")
    assert shown.out.splitlines() == lines
    history = bare.run("scenario", "history", 1, "--json").json()
    assert [step["to"] for step in history] == [
        "init_startup", "init_startup_processing", "active", "completed",
    ]  # fmt: skip


def test_run_names_only_what_it_has_written(bare: Shell, home: Path, video: Path) -> None:
    results = bare.folder / "results"
    results.mkdir()
    for name in ("predictions.jsonl", "annotated.mp4"):
        (results / name).write_bytes(b"an earlier one's")
    ended = bare.run(
        "run", video, "--model", "nosuch:build", "--out", results, "--json", "--cpus", 1
    )
    assert ended.code == 5, ended.err
    summary = ended.json()
    assert (summary["predictions"], summary["video"]) == (None, None)


def test_run_uses_no_other_stack_that_the_environment_names(
    bare: Shell, home: Path, video: Path, database_url: str
) -> None:
    """Its worker would take the work of others there."""
    bare.environment["DATABASE_URL"] = database_url
    bare.environment["KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
    ended = bare.run("run", video, "--every", 100, "--cpus", 1)
    assert ended.code == 0, ended.err
    assert "DATABASE_URL is set, and `vidan run` doesn't use it" in ended.err
    assert "KAFKA_… is set, and `vidan run` doesn't use it" in ended.err
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM workers").fetchall() == [(0,)]


def test_run_of_a_damaged_video_stores_what_can_be_had(
    bare: Shell, home: Path, video: Path
) -> None:
    cut = bare.folder / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])

    ended = bare.run("run", cut, "--every", 10, "--json", "--cpus", 1)

    if ended.code == 10:  # its index stood behind the cut: nothing can be had
        assert "cut.mp4" in ended.err
        return
    assert ended.code == 0, ended.err
    assert ended.json()["lost_frames"] > 0


def test_run_of_a_cut_video_is_incomplete_if_nothing_may_be_lost(
    bare: Shell, home: Path, tmp_path: Path
) -> None:
    whole = encode(tmp_path / "a.mkv", 60)
    cut = truncated(whole, tmp_path / "cut.mkv", 0.7)
    ended = bare.run("run", cut, "--every", 20, "--cpus", 1, "--max-lost", "1%", "--json")
    assert ended.code == 11, ended.err
    assert 1 < ended.json()["lost_frames"] < 60
    assert "more than 1%" in ended.err


def test_ctrl_c_stops_a_run_and_leaves_nothing(bare: Shell, home: Path, video: Path) -> None:
    running = bare.start("run", video, "--cpus", 1)
    stored = home / "logs" / "workers.log"
    assert eventually(lambda: stored.exists() and "registered" in stored.read_text(), 60)
    time.sleep(3)

    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)

    assert running.returncode == 130, err
    assert out == ""
    assert "vidan scenario start 1" in err
    assert eventually(lambda: _nothing_is_left(home)), _processes_of(home)
    assert bare.run("scenario", "show", 1, "--json").json()["status"] == "inactive"


def test_a_run_resumes_where_an_interrupted_one_was(bare: Shell, home: Path, video: Path) -> None:
    command = ("run", video, "--cpus", 1, "--every", 4, "--json")
    running = bare.start(*command)
    stored = home / "logs" / "workers.log"
    assert eventually(lambda: stored.exists() and "registered" in stored.read_text(), 60)
    assert eventually(lambda: _frames_done(bare) > 0, 60)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130
    before = _frames_done(bare)
    time.sleep(2)  # which is not counted as running

    ended = bare.run(*command)
    assert ended.code == 0, ended.err
    assert "scenario 1 resumes at frame" in ended.err
    summary = ended.json()
    assert summary["scenario_id"] == 1
    assert 0 < before < summary["frames"]
    ran = bare.run("scenario", "summary", 1, "--json").json()
    assert (summary["seconds"], summary["fps"]) == (ran["seconds"], ran["fps"])
    shown = bare.run("predictions", "show", 1, "--json").out.splitlines()
    assert [json.loads(line)["frame"] for line in shown] == list(range(0, 4 * len(shown), 4))
    assert len(shown) == summary["frames"]

    again = bare.run("run", video, "--cpus", 1, "--every", 100, "--json")
    assert again.json()["scenario_id"] == 2  # other params are other work


def _frames_done(bare: Shell) -> int:
    shown = bare.run("scenario", "show", 1, "--json")
    return int(shown.json()["frames_done"]) if shown.code == 0 else 0


def test_up_serves_commands_restarts_what_is_killed_and_stops_on_ctrl_c(
    bare: Shell, home: Path, video: Path
) -> None:
    up = bare.start("up", "--cpus", 1)
    try:
        assert up.stdout is not None
        first = up.stdout.readline()
        assert first.startswith("DATABASE_URL=postgresql://")

        created = bare.run("scenario", "create", video, "--param", "every=50", "--wait")
        assert created.code == 0, created.err
        assert created.out == "1\n"

        worker = bare.run("workers", "list", "--json").json()[0]
        os.kill(worker["pid"], signal.SIGKILL)
        again = bare.run("scenario", "create", video, "--param", "every=50", "--wait")
        assert again.code == 0, again.err
        assert bare.run("workers", "list", "--json").json()[0]["pid"] != worker["pid"]

        second = bare.start("up", "--cpus", 1)
        assert second.stderr is not None
        assert any("unless others use it" in line for line in second.stderr)
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=60)
        assert bare.run("scenario", "create", video, "--status", "inactive").code == 0
    finally:
        up.send_signal(signal.SIGINT)
        _, err = up.communicate(timeout=60)

    assert up.returncode == 130, err
    assert eventually(lambda: _nothing_is_left(home)), _processes_of(home)
    ended = bare.run("scenario", "create", video)
    assert ended.code == 8
    assert "vidan up" in ended.err


def test_up_stays_when_its_workers_were_drained(bare: Shell, home: Path, video: Path) -> None:
    up = bare.start("up", "--cpus", 2, "--max-frames-per-child", 100_000, "--log-json")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(up.stderr or ()))
    reader.start()
    try:
        assert up.stdout is not None
        assert up.stdout.readline().startswith("DATABASE_URL=postgresql://")
        listed = ("workers", "list", "--json")
        assert eventually(lambda: len(bare.run(*listed).json()) == 2, 60)
        drained = bare.run("workers", "drain", "--all", "--wait", "--timeout", 60)
        assert drained.code == 0, drained.err
        assert eventually(lambda: any("the workers have left" in line for line in lines), 60)
        time.sleep(1)  # they would have been started again
        assert bare.run(*listed).out == "[]\n"
        assert bare.run("scenario", "create", video).code == 0
        assert up.poll() is None
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
        reader.join(30)

    assert up.returncode == 130, lines
    told = [json.loads(line) for line in lines]
    assert {line["process"] for line in told} == {"up", "supervisor", "worker"}


def test_a_run_whose_workers_were_stopped_says_how_to_go_on(
    bare: Shell, home: Path, video: Path
) -> None:
    running = bare.start("run", video, "--cpus", 1)
    listed = ("workers", "list", "--json")
    assert eventually(
        lambda: any(worker["scenarios"] for worker in bare.run(*listed).json() or []), 60
    )

    stopped = bare.run("workers", "stop", "--all")
    assert stopped.code == 0, stopped.err
    out, err = running.communicate(timeout=60)

    assert (running.returncode, out) == (1, ""), err
    assert "the workers of this run were drained or stopped" in err
    assert "vidan up --queues default,run-" in err
    assert bare.run("scenario", "show", 1, "--json").json()["status"] == "init_startup"


def test_up_that_is_killed_leaves_nothing_behind(bare: Shell, home: Path) -> None:
    up = bare.start("up", "--cpus", 1)
    assert up.stdout is not None
    assert up.stdout.readline().startswith("DATABASE_URL=")
    assert eventually(lambda: len(_processes_of(home)) >= 4, 30)

    up.kill()
    up.communicate()

    assert eventually(lambda: _nothing_is_left(home), 30), _processes_of(home)


def test_the_command_is_installed() -> None:
    import sys

    installed = Path(sys.executable).parent / "vidan"
    version = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip().endswith("0.1.0")
