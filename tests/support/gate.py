"""A detector whose calls end when the test allows it, and helpers to submit frames to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.support.processes import eventually
from vidan.detection.batcher import Batcher, Pending, Seat
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.processes.slotboard import Call

Pixels = NDArray[np.uint8]
PATIENCE = 10.0
ABOUT = ContextVar("about", default="nobody")


@dataclass
class Gate(Detector):
    """A detector whose calls wait for `let`; it finds the first value of each frame.

    It fails at a frame of the value 255.
    """

    batch_size: int = 4
    max_parallel: int = 1
    prefers_small_calls: bool = False
    accepts_mixed_sizes: bool = True
    labels: tuple[str, ...] = ("value",)
    open: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    calls: list[list[int]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    shares: set[tuple[int, int]] = field(default_factory=set)
    closed: bool = False
    about: list[str] = field(default_factory=list)
    """The context of each call, which its log lines would show."""

    def detect(self, pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        values = [int(frame[0, 0, 0]) for frame in pixels]
        self.calls.append(values)
        self.shapes.append(pixels.shape)
        self.about.append(ABOUT.get())
        assert self.open.acquire(timeout=PATIENCE)
        if 255 in values:
            raise ValueError(f"can't look at {values}")
        box = (width / 2, 0.0, float(width), float(height))
        return [[Detection(box, "value", value / 255)] for value in values]

    def prepare_thread(self, lane: int, lanes: int) -> None:
        self.shares.add((lane, lanes))

    def let(self, calls: int = 1) -> None:
        self.open.release(calls)


@contextmanager
def no_clock(_: Call) -> Iterator[None]:
    yield


def frames(value: int, count: int = 1, shape: tuple[int, int] = (2, 2)) -> Pixels:
    return np.full((count, *shape, 3), value, np.uint8)


def submit(seat: Seat, value: int, count: int = 1) -> Pending:
    return seat.submit(frames(value, count), 2, 2)


def values(pending: Pending) -> list[int]:
    return [round(255 * found[0].score) for found in pending.result()]


def held(gate: Gate, batcher: Batcher) -> Pending:
    """Submit frames at a seat of their own, and wait until the detector holds them."""
    pending = submit(batcher.seat(no_clock), 99, gate.batch_size)
    assert eventually(lambda: len(gate.calls) == 1)
    return pending
