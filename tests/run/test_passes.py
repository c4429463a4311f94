"""Passes over a run's frames: one after the other; two at once are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.videos import encode, truncated
from vidan import Run, Vidan
from vidan.domain.status import Status
from vidan.tasks.app import Stack

FRAMES = 20

app = Vidan()


@app.task(name="both")
def both(run: Run) -> int:
    """Run two passes at once, batch by batch."""
    return sum(1 for _ in zip(run.frames(), run.frames(), strict=False))


@app.task(name="peeks")
def peeks(run: Run) -> int:
    """Begin a second pass in the middle of the first."""
    return sum(len(batch.indices) for batch in run.frames() for _ in run.frames())


@app.task(name="in turn")
def in_turn(run: Run) -> list[int]:
    """Leave a pass, close one, read one to the end, and begin one that finds no frame."""
    seen = []
    for batch in run.frames():
        seen += batch.indices.tolist()
        break
    left = run.frames()
    seen += next(left).indices.tolist()
    left.close()  # type: ignore[attr-defined]  # a generator
    to_the_end = run.frames()
    for batch in to_the_end:
        seen += batch.indices.tolist()
    return seen + [0 for _ in run.frames()] + [0 for _ in to_the_end]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with app.testing() as stack:
        yield stack


@pytest.mark.parametrize("task", ["both", "peeks"])
def test_two_at_once_are_no_end_of_the_video(stack: Stack, tmp_path: Path, task: str) -> None:
    video = encode(tmp_path / "a.mp4", FRAMES)
    ended = app.tasks[task].delay(source=video).wait()
    assert (ended.status, ended.attempts) == (Status.FAILED, 0)
    assert "a run has one pass at a time" in str(ended.error)


def test_one_after_the_other_goes_on_where_the_last_one_was(stack: Stack, tmp_path: Path) -> None:
    scenario = in_turn.delay(source=encode(tmp_path / "a.mp4", FRAMES))
    ended = scenario.wait(check=True)
    assert ended.result == list(range(FRAMES))
    assert [one.frame for one in scenario.predictions()] == list(range(FRAMES))


def test_a_cut_video_is_told_in_the_log_and_in_the_scenario(
    stack: Stack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = encode(tmp_path / "a.mkv", 3 * FRAMES)
    with caplog.at_level(logging.WARNING, "vidan.runner"):
        ended = in_turn.delay(source=truncated(whole, tmp_path / "cut.mkv", 0.7)).wait()
    assert ended.status is Status.COMPLETED
    assert ended.lost_frames == 3 * FRAMES - ended.frames_done > 1
    (line,) = [one.getMessage() for one in caplog.records if one.name == "vidan.runner"]
    assert line.startswith(f"lost {ended.lost_frames} frames: ")
    assert "(cut off)" in line
