"""A short chaos run on each broker, with every kind of injury that there is time for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.figures import table
from tests.chaos.operation import Report, operate
from tests.chaos.schedule import Kind, plan
from tests.chaos.workload import Choice, Expected, Video, default_videos, works
from tests.support.kafka import require_kafka

SEED = 1
KILLS = len(Kind) - 1
VIDEOS = ("pedestrians.mp4", "damaged.ts", "groups.mkv")

_expected: dict[str, Expected] = {}
"""The results of the undisturbed run, which the first test leaves for the second one."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    found = default_videos(tmp_path_factory.mktemp("videos"))
    return [video for video in found if video.path.name in VIDEOS]


@pytest.fixture
def choice(videos: list[Video]) -> Choice:
    return Choice(SEED, works(videos), dear=0.1)


@pytest.mark.processes
@pytest.mark.database
@pytest.mark.slow
def test_nothing_is_lost_on_the_embedded_broker(choice: Choice, tmp_path: Path) -> None:
    _check(_run("embedded", choice, tmp_path))


@pytest.mark.processes
@pytest.mark.database
@pytest.mark.kafka
@pytest.mark.slow
def test_nothing_is_lost_on_kafka(choice: Choice, tmp_path: Path) -> None:
    require_kafka()
    _check(_run("kafka", choice, tmp_path))


def _run(broker: str, choice: Choice, folder: Path) -> Report:
    logs = folder / "logs"
    logs.mkdir()
    report = operate(broker, choice, plan(SEED, KILLS, short=True), logs, _expected or None)
    _expected.update(report.expected)
    return report


def _check(report: Report) -> None:
    print(table(report.figures))  # noqa: T201
    assert report.violations == []
    done = {one.injury.kind for one in report.done if not one.missed}
    assert len(done) >= KILLS - 3  # sometimes an injury finds no target
    assert report.figures.scenarios > 10
    assert report.figures.lost == report.figures.twice == 0
