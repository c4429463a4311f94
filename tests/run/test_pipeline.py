"""Source → detector → task: batches ahead of the task, and batches left when it ends."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.processes import eventually
from vidan.detection.batcher import Batcher, Seat
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import HandOver, TimeLimitExceeded, VidanError
from vidan.run.committer import Committer, FinishedFrames, LabelNames
from vidan.run.control import RunControl
from vidan.run.pipeline import Pipeline
from vidan.video.frames import FrameBatch


@dataclass
class Source:
    """A source of `count` batches of one frame, which then fails if told to."""

    count: int
    live: bool = False
    failure: Exception | None = None
    width: int = 2
    height: int = 2
    fps: float | None = None
    frames_total: int | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def batches(self, size: int) -> Iterator[FrameBatch]:
        for number in range(self.count):
            one = np.array([number], np.int64)
            pixels = np.full((1, 2, 2, 3), number, np.uint8)
            yield FrameBatch(one, one, pixels, 2, 2, (), number + 1, None)
        if self.failure is not None:
            raise self.failure

    closed: list[bool] = field(default_factory=list)
    """For each call of `close`: whether batches were still being read."""

    def close(self) -> None:
        reading = any(one.name == "decode" for one in threading.enumerate())
        self.closed.append(reading)


@dataclass
class Seen(Detector):
    """A detector that notes which frames it was given."""

    labels: tuple[str, ...] = ()
    accepts_mixed_sizes: bool = True
    frames: list[int] = field(default_factory=list)

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        self.frames += [int(frame[0, 0, 0]) for frame in pixels]
        return [[] for _ in pixels]


class Stored:
    """Stands in for the committer."""

    def __init__(self) -> None:
        self.labels = LabelNames(())
        self.frames: list[int] = []

    def add(self, done: FinishedFrames) -> None:
        self.frames += [row.frame for row in done.rows]


def pipeline(source: Source, detector: Seen, control: RunControl) -> tuple[Pipeline, Stored, Seat]:
    stored = Stored()
    seat = Batcher(detector).seat(lambda _: nullcontext(), control.check)
    seat.live = source.live
    made = Pipeline(
        cast(Any, source),
        cast(Committer, stored),
        control,
        state=lambda: "{}",
        detector=seat,
        batch_size=1,
    )
    return made, stored, seat


@pytest.mark.parametrize(("live", "ahead"), [(False, 2), (True, 1)])
def test_of_a_file_the_next_batch_is_at_the_detector_already(live: bool, ahead: int) -> None:
    detector = Seen()
    made, stored, seat = pipeline(Source(5, live=live), detector, RunControl())
    batches = made.batches()
    for number, (batch, _) in enumerate(batches):
        assert batch.indices.tolist() == [number]
        wanted = list(range(min(5, number + ahead)))
        assert eventually(lambda: detector.frames == wanted)  # noqa: B023
        assert stored.frames == list(range(number))  # not the batch that the task works on
    assert stored.frames == list(range(5))
    assert not seat.batcher._seats


def test_a_source_is_closed_once_more_when_nobody_reads_it() -> None:
    """`close` may come while a batch is read: the source is then closed once more."""
    source = Source(5)
    made, _, _ = pipeline(source, Seen(), RunControl())
    batches = cast(Generator[Any], made.batches())
    next(batches)
    batches.close()
    assert source.closed[-1] is False


def test_a_source_that_can_not_be_closed_does_not_keep_the_seat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise OSError("gone")

    source = Source(5)
    made, _, seat = pipeline(source, Seen(), RunControl())
    batches = cast(Generator[Any], made.batches())
    next(batches)
    monkeypatch.setattr(source, "close", fail)
    with pytest.raises(OSError, match="gone"):
        batches.close()
    assert not seat.batcher._seats


def test_what_came_before_an_error_of_the_source_is_stored() -> None:
    made, stored, seat = pipeline(Source(3, failure=VidanError("gone")), Seen(), RunControl())
    seen: list[int] = []
    with pytest.raises(VidanError, match="gone"):
        seen.extend(int(batch.indices[0]) for batch, _ in made.batches())
    assert stored.frames == [0, 1, 2]
    assert not seat.batcher._seats


def test_an_interruption_leaves_the_detector() -> None:
    detector, control = Seen(), RunControl()
    made, stored, seat = pipeline(Source(9), detector, control)
    batches = made.batches()
    next(batches)
    control.interrupt(HandOver("the worker is leaving"))
    with pytest.raises(HandOver):
        next(batches)
    assert stored.frames == [0]
    assert set(detector.frames) <= {0, 1}
    assert not seat.batcher._seats


def test_the_soft_limit_is_told_instead_of_the_next_batch() -> None:
    control = RunControl()
    made, stored, seat = pipeline(Source(9), Seen(), control)
    batches = made.batches()
    next(batches)
    control.set_soft_limit(-1)
    with pytest.raises(TimeLimitExceeded):
        next(batches)
    assert stored.frames == [0]
    assert made.position is not None
    assert (made.position.frame, made.position.pts) == (1, None)
    assert not seat.batcher._seats


@pytest.mark.parametrize("live", [False, True])
def test_at_the_end_there_is_nothing_left_to_be_limited(live: bool) -> None:
    control = RunControl()
    made, stored, _ = pipeline(Source(3, live=live), Seen(), control)
    for batch, _ in made.batches():
        if batch.indices[0] == 2:
            control.set_soft_limit(-1)
    assert stored.frames == [0, 1, 2]


def test_a_task_that_breaks_off_leaves_the_detector() -> None:
    made, stored, seat = pipeline(Source(9), Seen(), RunControl())
    batches = made.batches()
    next(batches)
    cast(Any, batches).close()
    made.settle()
    assert stored.frames == [0]
    assert not seat.batcher._seats
