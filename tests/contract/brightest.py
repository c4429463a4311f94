"""A user's own detector, as small as possible: where a frame is bright, where dark."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidan.domain.detection import Detection


class Brightest:
    labels: tuple[str, ...] = ("bright", "dark")
    batch_size = 2

    def __init__(self, margin: int) -> None:
        self.margin = margin

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        fx, fy = width / pixels.shape[2], height / pixels.shape[1]
        found = []
        for frame in pixels.mean(axis=3):
            detections = []
            for label, value in (("bright", frame), ("dark", 255 - frame)):
                y, x = np.unravel_index(int(value.argmax()), value.shape)
                m = self.margin  # the box may exceed the frame
                box = ((x - m) * fx, (y - m) * fy, (x + m) * fx, (y + m) * fy)
                detections.append(Detection(box, label, float(value.max()) / 255))
            found.append(detections)
        return found


def build(device: str, margin: int = 10) -> Brightest:
    assert device == "cpu"
    return Brightest(margin)


def sized(size: tuple[int, int] = (8, 8), **rest: object) -> Brightest:
    assert set(rest) == {"device", "min_score"}, "what was not asked for is not passed"
    return Brightest(size[0])


def broken() -> Brightest:
    raise OSError("no licence\nfor this machine")


def no_detector() -> object:
    return object()


class TooFew(Brightest):
    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        return []


class Unnamed(Brightest):
    labels = ("bright",)  # and it finds "dark" too


def too_few() -> Brightest:
    return TooFew(1)


def unnamed() -> Brightest:
    return Unnamed(1)
