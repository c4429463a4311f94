"""Checks of the frames that a detector is given, and suppression of overlapping boxes. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidan.errors import RejectedTask


def check_pixels(pixels: NDArray[Any]) -> None:
    """Raise RejectedTask unless `pixels` is (N, H, W, 3) uint8 with H and W at least 1."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = getattr(pixels, "dtype", type(pixels).__name__)
        raise RejectedTask(f"frames are uint8, not {kind}", hint="RGB values from 0 to 255")
    if pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:]:
        raise RejectedTask(f"frames are (N, H, W, 3), not {pixels.shape}", hint="a batch of RGB")


def nms(
    boxes: NDArray[np.float64], classes: NDArray[np.float64], iou_limit: float, count: int
) -> list[int]:
    """Return the indices of the boxes that non-maximum suppression keeps, at most `count`.

    `boxes` is (K, 4) xyxy, the best score first; only boxes of one class suppress each other. Gives
    what torchvision.ops.batched_nms gives (a test compares them); importing torchvision would
    double the start of a worker, by 2 s.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < count:
        best, left = left[0], left[1:]
        kept.append(int(best))
        corner = np.maximum(boxes[best, :2], boxes[left, :2])
        sides = np.clip(np.minimum(boxes[best, 2:], boxes[left, 2:]) - corner, 0, None)
        shared = sides[:, 0] * sides[:, 1]
        overlaps = shared > iou_limit * (areas[best] + areas[left] - shared)
        left = left[~(overlaps & (classes[left] == classes[best]))]
    return kept
