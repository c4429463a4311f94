"""Examples of tasks and calls, run as their first lines say, through the installed commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.examples import Up
from tests.support.reader import CLIP_FRAMES, shorten
from vidan.detection import catalogue


@pytest.fixture
def videos(tmp_path: Path) -> None:
    """Put two short videos into the folder of the examples."""
    for name in ("street.mp4", "lane.mp4"):
        shorten(catalogue.sample_video(), tmp_path / name)


@pytest.mark.usefixtures("videos")
def test_count_people(up: Up) -> None:
    with up("count_people") as run:
        called = run.program("street.mp4")
        create = ("scenario", "create", "street.mp4", "--task", "count_people", "--wait")
        run.vidan(*create, "--param", "min_score=0.6")
        result = run.show(2)["result"]
        assert result["people"] > 0
        assert called == f"{result}\n"


@pytest.mark.usefixtures("videos")
def test_calls(up: Up) -> None:
    with up("calls") as run:
        delay, apply, many, refused = run.program("street.mp4", "lane.mp4").splitlines()
        assert 0 < float(delay.removeprefix("delay: ")) < 255
        light = apply.removeprefix("apply: ").removesuffix(" once")
        assert 0 < float(light) < 255
        assert many == f"create_many: [{light}, {light}]"
        assert refused.startswith("refused: task calls.brightness: param every: ")
        created = run.json("scenario", "list")
        assert {(one["task"], one["status"]) for one in created} == {
            ("calls.brightness", "completed")
        }
        assert len(created) == 4


@pytest.mark.usefixtures("videos")
def test_own_predictions(up: Up, environment: dict[str, str]) -> None:
    environment["VIDAN_APP"] = "own_predictions:app"
    with up("own_predictions") as run:
        create = ("scenario", "create", "street.mp4", "--task", "own_predictions.find_dark")
        run.vidan(*create, "--param", "darker_than=256", "--wait")
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
    with up("no_source") as run:
        create = ("scenario", "create", "--task", "no_source.word_count", "--wait")
        run.vidan(*create, "--param", "text=to be or not")
        assert run.show(1)["result"] == {"words": 4, "longest": "not"}
