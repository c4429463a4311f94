"""An app for the chaos run: its tasks write down every frame that they get.

Each batch is a line in the file `<scenario id>` of the folder CHAOS_MARKS: the time, the process
and the frames. So the chaos run knows the frames that were done but not stored, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidan import Run, Vidan
from vidan.domain import Detection

app = Vidan()

THRESHOLD = 0.3
QUARTERS = ("north-west", "north-east", "south-west", "south-east")


class Bright:
    """Finds the bright quarters of a picture; the score is the mean brightness."""

    labels: tuple[str, ...] = QUARTERS
    batch_size = 4

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        return [self._quarters(frame, width, height) for frame in pixels]

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        part = max(1, min(height, width) // 120)  # a large picture may be decoded smaller
        return height // part, width // part

    @staticmethod
    def _quarters(frame: NDArray[np.uint8], width: int, height: int) -> list[Detection]:
        x, y = width / 2, height / 2
        boxes = ((0.0, 0.0, x, y), (x, 0.0, float(width), y), (0.0, y, x, float(height)),
                 (x, y, float(width), float(height)))  # fmt: skip
        middle, centre = frame.shape[0] // 2, frame.shape[1] // 2
        parts = (frame[:middle, :centre], frame[:middle, centre:], frame[middle:, :centre],
                 frame[middle:, centre:])  # fmt: skip
        scores = [float(part.mean()) / 255 for part in parts]
        return [
            Detection(box, label, score)
            for box, label, score in zip(boxes, QUARTERS, scores, strict=True)
            if score >= THRESHOLD
        ]


def bright() -> Bright:
    return Bright()


@app.task(name="bright")
def count_bright(run: Run, every: int = 1, pause: float = 0.0) -> dict[str, int]:
    """Count frames and bright quarters in the state of the task."""
    run.state.setdefault("frames", 0)
    run.state.setdefault("quarters", 0)
    for batch, detections in run.detect(model="chaos:bright", min_score=0.0, every=every):
        _mark(run, batch.indices)
        time.sleep(pause * len(batch.indices))
        run.state["frames"] += len(batch.indices)
        run.state["quarters"] += sum(len(found) for found in detections)
    return dict(run.state)


@app.task(name="nano")
def count_nano(run: Run, every: int = 1, size: str = "320x320") -> dict[str, int]:
    """Count the frames that went through the built-in detector."""
    height, width = map(int, size.split("x"))
    run.state.setdefault("frames", 0)
    found = run.detect(model="nanodet-g", size=(height, width), every=every, batch_size=2)
    for batch, _ in found:
        _mark(run, batch.indices)
        run.state["frames"] += len(batch.indices)
    return dict(run.state)


@app.task(name="stumble", retries=1)
def stumble(run: Run, at: int, every: int = 1, pause: float = 0.0) -> dict[str, int]:
    """Fail once, at frame `at`."""
    run.state.setdefault("frames", 0)
    fallen = _marks(run).with_suffix(".fallen")
    for batch in run.frames(every=every):
        _mark(run, batch.indices)
        time.sleep(pause * len(batch.indices))
        if batch.indices[-1] >= at and not fallen.exists():
            fallen.touch()
            raise ValueError("stumbled")
        run.state["frames"] += len(batch.indices)
    return dict(run.state)


@app.task(name="brightest")
def brightest(run: Run, every: int = 1, pause: float = 0.0) -> dict[str, float]:
    """Find the brightest picture without a detector, and report progress."""
    for batch in run.frames(every=every, batch_size=3):
        _mark(run, batch.indices)
        run.progress()
        time.sleep(pause * len(batch.indices))
        run.state["frames"] = run.state.get("frames", 0) + len(batch.indices)
        for index, pixels in zip(batch.indices, batch.pixels, strict=True):
            mean = round(float(pixels.mean()), 3)
            if mean > run.state.get("brightest", -1.0):
                run.state.update(brightest=mean, at=int(index))
    return dict(run.state)


@app.task(name="ponder", source=False)
def ponder(run: Run, number: int, pause: float = 0.0) -> int:
    """Square a number slowly, without a source."""
    until = time.monotonic() + pause
    while time.monotonic() < until:
        run.progress()
        time.sleep(0.02)
    return number**2


def _marks(run: Run) -> Path:
    return Path(os.environ["CHAOS_MARKS"]) / str(run.scenario_id)


def _mark(run: Run, frames: Iterable[int]) -> None:
    line = f"{time.time():.3f} {os.getpid()} {' '.join(map(str, frames))}\n"
    descriptor = os.open(_marks(run), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())  # one call, so that a kill leaves a whole line or none
    finally:
        os.close(descriptor)
