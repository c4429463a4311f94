"""Each one-screen app in examples/, run as its first lines say, through the installed commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.folders import new_folder
from tests.support.home import remove_home
from tests.support.processes import eventually
from tests.support.reader import CLIP_FRAMES, shorten
from vidan.detection import catalogue

EXAMPLES = Path(__file__).parents[2] / "examples"
VIDAN = Path(sys.executable).parent / "vidan"


@dataclass(frozen=True)
class Started:
    """A folder with the examples and two short videos, and a stack that runs one of them."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str | Path) -> str:
        """Return what a command printed; it has to end well."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=90
        )
        log = (self.folder / "up.log").read_text()
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log}"
        return done.stdout

    def vidan(self, *words: str) -> str:
        """Return what the installed `vidan` printed."""
        return self(VIDAN, *words)


Up = Callable[[str], Started]


@pytest.fixture
def up(tmp_path: Path, home_template: Path) -> Iterator[Up]:
    """`vidan up --app …` in a folder with the examples."""
    home = new_folder()
    subprocess.run(["cp", "-a", home_template / "postgres", home], check=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "PYTHONPATH")
        and not name.startswith("VIDAN_")
    } | {"VIDAN_HOME": str(home), "OMP_NUM_THREADS": "1"}
    for example in EXAMPLES.glob("*.py"):
        shutil.copy(example, tmp_path)
    for name in ("street.mp4", "lane.mp4"):
        shorten(catalogue.sample_video(), tmp_path / name)
    stacks: list[subprocess.Popen[str]] = []

    def start(app: str) -> Started:
        stack = subprocess.Popen(
            [VIDAN, "up", "--cpus", "1", "--json"],
            cwd=tmp_path,
            env={**environment, "VIDAN_APP": app},
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "up.log").open("wb"),
            text=True,
        )
        stacks.append(stack)
        assert stack.stdout is not None
        assert stack.stdout.readline(), (tmp_path / "up.log").read_text()
        started = Started(tmp_path, environment)
        assert eventually(lambda: len(started.vidan("tasks", "list", "-q").split()) > 1, 60)
        return started

    yield start
    for stack in stacks:
        stack.terminate()
        stack.wait(30)
        assert stack.stdout is not None
        stack.stdout.close()
    remove_home(home)


def test_count_people(up: Up) -> None:
    run = up("count_people:app")
    called = run(sys.executable, "count_people.py", "street.mp4")
    run.vidan(
        "scenario", "create", "street.mp4", "--task", "count_people", "--param", "min_score=0.6",
        "--wait",
    )  # fmt: skip
    result = json.loads(run.vidan("scenario", "show", "2", "--json"))["result"]
    assert result["people"] > 0
    assert called == f"{result}\n"


def test_calls(up: Up) -> None:
    run = up("calls:app")
    delay, apply, many, refused = run(
        sys.executable, "calls.py", "street.mp4", "lane.mp4"
    ).splitlines()
    assert 0 < float(delay.removeprefix("delay: ")) < 255
    light = apply.removeprefix("apply: ").removesuffix(" once")
    assert 0 < float(light) < 255
    assert many == f"create_many: [{light}, {light}]"
    assert refused.startswith("refused: task calls.brightness: param every: ")
    created = json.loads(run.vidan("scenario", "list", "--json"))
    assert {(one["task"], one["status"]) for one in created} == {("calls.brightness", "completed")}
    assert len(created) == 4


def test_own_predictions(up: Up) -> None:
    run = up("own_predictions:app")
    run.vidan("scenario", "create", "street.mp4", "--task", "own_predictions.find_dark", "--param",
              "darker_than=256", "--wait")  # fmt: skip
    frames = [
        json.loads(line)
        for line in run.vidan("predictions", "show", "1", "--json").split("\n")
        if line
    ]
    assert [one["frame"] for one in frames] == list(range(CLIP_FRAMES))
    for one in frames:
        assert 0 < one["extra"]["brightness"] < 255
        assert [found["label"] for found in one["detections"]] == ["dark left", "dark right"]
        assert one["detections"][0]["box"] == [0, 0, 384, 576]


def test_no_source(up: Up) -> None:
    run = up("no_source:app")
    run.vidan("scenario", "create", "--task", "no_source.word_count", "--param",
              "text=to be or not", "--wait")  # fmt: skip
    shown = json.loads(run.vidan("scenario", "show", "1", "--json"))
    assert shown["result"] == {"words": 4, "longest": "not"}
