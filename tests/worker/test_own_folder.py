"""An app among files with the names of libraries, and what it does when it is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import SAMPLE, Cluster
from vidan.config import Settings
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.processes import working_folder
from vidan.processes.slotboard import Ended, SlotBoard

ROOT = str(Path(working_folder.__file__).parents[2])

SHADOWS = ("queue", "random", "typing", "json", "torch", "av", "pickle", "threading", "signal")

APP = """
import multiprocessing
from squares import square
from vidan import Run, Vidan

print("imported", end=", ")
print("in two parts")
app = Vidan()


@app.task(source=False)
def pools(run: Run, method: str) -> list[int]:
    print(f"from {method}")
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, range(4))


@app.task
def counts(run: Run, model: str) -> int:
    return sum(len(found) for batch, found in run.detect(model=model))
"""

SQUARES = """
import queue, random, typing

def square(x):
    return x * x + len(queue.Queue().queue)
"""

DETECTOR = """
from vidan import Detection

class Sees:
    labels = ("thing",)

    def detect(self, pixels, width, height):
        return [[Detection((0, 0, 1, 1), "thing", 0.9)] for _ in pixels]

def factory():
    return Sees()
"""


@pytest.mark.slow
def test_an_app_among_files_with_names_of_libraries(
    embedded_cluster: Cluster, tmp_path: Path
) -> None:
    """In its slots, in its detector, and in children of each kind, which import it again."""
    folder = tmp_path / "project"
    folder.mkdir()
    sources = {"my_videos": APP, "my_eyes": DETECTOR}
    for name in SHADOWS:
        sources[name] = f"raise SystemExit('{name} of the folder')"
    # `squares` imports some of those that stand in the folder: it lies elsewhere
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "squares.py").write_text(SQUARES)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    cluster = embedded_cluster
    cluster.folder = folder
    cluster.environment["PYTHONPATH"] = f"{ROOT}:{tmp_path / 'elsewhere'}"
    cluster.supervisor(app="my_videos:app", slots=2)
    ids = [
        cluster.create(task="my_videos.pools", source=None, params={"method": how})
        for how in ("spawn", "fork", "forkserver")
    ]
    ids.append(
        cluster.create(
            task="my_videos.counts", source=str(SAMPLE), params={"model": "my_eyes:factory"}
        )
    )
    found = [cluster.wait(one, 120) for one in ids]
    assert [one.status for one in found] == [Status.COMPLETED] * 4, cluster.log()
    assert [one.result for one in found] == [[0, 1, 4, 9]] * 3 + [200]
    log = cluster.log()
    assert "vidan.printed: imported, in two parts" in log
    assert f"[scenario {ids[0]} epoch 1] from spawn" in log
    assert "of the folder" not in log


Start = Callable[[str], tuple[subprocess.CompletedProcess[str], Ended]]


@pytest.fixture
def start(tmp_path: Path, database_url: str) -> Start:
    """Starts a worker with an app of this source, and returns how it ended, also by its board."""

    def start(source: str) -> tuple[subprocess.CompletedProcess[str], Ended]:
        (tmp_path / "odd_app.py").write_text(source)
        (tmp_path / "queue.py").write_text("")
        options = WorkerOptions("w", app="odd_app:app")
        settings = Settings(home=tmp_path, database_url=database_url, log_json=True)
        board = SlotBoard.create(64)
        command = ["--options", options.to_json(), "--board", str(board.fd)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "vidan.worker", *command],
            env={**settings.environment(), "PYTHONPATH": ROOT},
            cwd=tmp_path,
            pass_fds=[board.fd],
            capture_output=True,
            text=True,
            timeout=60,
        )
        ended = board.ended
        board.close()
        return done, ended

    return start


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys\nsys.exit(3)", "--app odd_app:app: SystemExit: 3 (odd_app.py:3)"),
        ("import sys\nsys.exit()", "--app odd_app:app: SystemExit (odd_app.py:3)"),
        ("raise KeyboardInterrupt", "--app odd_app:app: KeyboardInterrupt (odd_app.py:2)"),
        ("import queue", "import queue means"),
    ],
)
def test_an_app_that_ends_its_import_is_told(start: Start, source: str, said: str) -> None:
    done, ended = start(f"print('first words')\n{source}")
    assert (done.returncode, ended, done.stdout) == (10, Ended.HOPELESS, "")
    lines = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert said in lines[-1]
    assert ("first words" in lines) is (source != "import queue")


@pytest.mark.parametrize("code", [0, 3])
def test_an_app_that_ends_the_process_leaves_a_note_on_the_board(start: Start, code: int) -> None:
    done, ended = start(f"import os\nos.system('echo of a program')\nos._exit({code})")
    assert (done.returncode, ended) == (code, Ended.LOADING)


def test_a_child_that_is_forked_at_the_import_ends_with_it(start: Start) -> None:
    done, ended = start(
        "import os, sys\n"
        "if (pid := os.fork()) == 0:\n    sys.exit(0)\n"
        "print('the child ended with', os.waitpid(pid, 0)[1] >> 8)\nraise ValueError('enough')\n"
    )
    assert (done.returncode, ended) == (10, Ended.HOPELESS)
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert "the child ended with 0" in messages
    assert len([one for one in messages if "enough" in one]) == 1
