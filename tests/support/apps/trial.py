"""An app for tests with real processes: its tasks are slow, fail, hang or kill their process."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidan import Run, Vidan
from vidan.domain import Detection
from vidan.errors import RejectedTask

app = Vidan()

HANGS = "the detector hangs now"
"""What `trial:hanging` logs when its call begins."""


class Mean:
    """Finds one object in every frame, scored by its brightness; `pause` seconds a frame."""

    labels: tuple[str, ...] = ("frame",)
    batch_size = 4

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        time.sleep(self.pause * len(pixels))
        box = (0.0, 0.0, float(width), float(height))
        return [[Detection(box, "frame", float(frame.mean()) / 255)] for frame in pixels]

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width


def quick() -> Mean:
    return Mean(0)


def slow() -> Mean:
    return Mean(0.02)


def crawling() -> Mean:
    """A detector that needs longer than two heartbeats for the sample video."""
    return Mean(0.06)


class Hanging(Mean):
    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        logging.getLogger("trial").warning(HANGS)
        time.sleep(600)
        return []


def hanging() -> Hanging:
    return Hanging(0)


class HangingInTheDark(Mean):
    """Hangs at a black frame. One call takes the batches of four scenarios."""

    batch_size = 16

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        if min(frame.mean() for frame in pixels) < 10:
            time.sleep(600)
        return super().detect(pixels, width, height)


def hanging_in_the_dark() -> HangingInTheDark:
    return HangingInTheDark(0.01)


@app.task(name="deadly")
def deadly(run: Run, at: int = 0, manner: str = "kill") -> str:
    """Kill the worker's process after frame `at`: as if memory had run out, or by a fault in native
    code.
    """
    for batch, _ in run.detect(model="trial:slow", min_score=0.0):
        if batch.next_frame > at:
            if manner == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            ctypes.string_at(0)
    return "survived"


@app.task(name="add", source=False)
def add(run: Run, a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@app.task(name="count")
def count(
    run: Run, model: str = "trial:quick", decoder: str = "pyav", batch_size: int | None = None
) -> dict[str, int]:
    """Count frames in the state of the task."""
    run.state.setdefault("frames", 0)
    for batch, _ in run.detect(model=model, min_score=0.0, decoder=decoder, batch_size=batch_size):
        run.state["frames"] += len(batch.indices)
    return {"frames": run.state["frames"]}


@app.task(name="span")
def span(run: Run, seconds: float) -> tuple[float, float]:
    """Return the time when the task got its slot, and when it left it."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


@app.task(name="stutter", retries=2)
def stutter(run: Run, failures: int, marks: str) -> int:
    """Fail in the middle of the video, `failures` times."""
    for batch in run.frames():
        so_far = len(list(Path(marks).iterdir()))
        if batch.indices[0] >= 100 and so_far < failures:
            (Path(marks) / str(so_far)).touch()
            raise ValueError("stuttered")
    return run.scenario_id


@app.task(name="sleep", source=False)
def sleep(run: Run, seconds: float) -> str:
    """Sleep, and end early when asked to."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run.progress()
        time.sleep(0.02)
    return "slept"


@app.task(name="attend", source=False)
def attend(run: Run, mark: str) -> str:
    """Wait until there is a file of this name."""
    while not Path(mark).exists():
        run.progress()
        time.sleep(0.02)
    return "there it is"


@app.task(name="die", source=False)
def die(run: Run, marks: str, times: int = 1) -> str:
    """Kill the worker's process, `times` times."""
    so_far = len(list(Path(marks).iterdir()))
    if so_far < times:
        (Path(marks) / str(so_far)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task(name="reject", source=False)
def reject(run: Run) -> None:
    """Raise an error that no retry can fix."""
    raise RejectedTask("this will never work")


@app.task(name="swallow")
def swallow(run: Run) -> str:
    """Catch every exception, as careless code does."""
    while True:
        try:
            for _ in run.detect(model="trial:slow", min_score=0.0):
                pass
        except Exception:
            continue
        return "all"


@app.task(name="polite")
def polite(run: Run) -> str:
    """Return early when a stop is requested, as a careful task may."""
    for _ in run.detect(model="trial:slow", min_score=0.0):
        if run.stopping:
            break
    return "left off" if run.stopping else "all"


@app.task(name="chatty")
def chatty(run: Run, marks: str) -> str:
    """Log in each of the possible ways."""
    for number, _ in enumerate(run.frames()):
        if number == 1:
            logging.getLogger("trial").info("by logging")
            run.log.info("by run.log")
            warnings.warn("a warning", stacklevel=1)
    return marks


@app.task(name="deaf", source=False)
def deaf(run: Run, seconds: float = 600) -> str:
    """Sleep, and never check whether a stop is requested."""
    time.sleep(seconds)
    return "slept"


@app.task(name="own")
def own(run: Run, pause: float = 0.0) -> None:
    """Store predictions of its own."""
    for batch in run.frames():
        for frame in batch.indices:
            box = (0.0, 0.0, float(frame + 1), 2.0)
            run.store(frame, detections=[Detection(box, "mine", 0.5)])
            run.store(frame, extra={"twice": int(frame) * 2})
        time.sleep(pause)


@app.task(name="pair", source=False, concurrency=2)
def pair(run: Run, seconds: float = 0.1) -> list[float]:
    """Return when it ran; at most two run at once."""
    began = time.time()
    time.sleep(seconds)
    return [began, time.time()]


@app.task(name="paced", source=False, rate_limit="4/s")
def paced(run: Run) -> None:
    """Do nothing; at most four start in a second."""
