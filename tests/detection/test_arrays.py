"""Suppression of overlapping boxes, compared with torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from vidan.detection.arrays import nms


@pytest.mark.parametrize("seed", range(5))
def test_nms_is_torchvisions(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (200, 2))
    boxes = np.hstack((corners, corners + random.uniform(5, 60, (200, 2))))
    classes = random.integers(0, 3, 200).astype(np.float64)
    scores = np.sort(random.uniform(0, 1, 200))[::-1].copy()
    theirs = batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), 0.6).tolist()
    assert len(theirs) < 200
    assert nms(boxes, classes, 0.6, 200) == theirs
    assert nms(boxes, classes, 0.6, 10) == theirs[:10]
