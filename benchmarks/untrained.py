"""Untrained weights for torchvision's models, where none can be downloaded.

A network costs the same whatever its weights are, but the cost of what follows depends on the
number of detections. So class scores are spread out, and the score limit is chosen so that a frame
has a usual number of detections.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torchvision.models import get_model

from vidan.detection import catalogue
from vidan.detection.building import build_detector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DETECTIONS = 10
"""Approximate number of detections per frame."""


def save(model: str, path: Path) -> Path:
    """Write a state dict of `torchvision/<model>` with random weights, the same in each run."""
    torch.manual_seed(7)
    network = get_model(model, weights=None, weights_backbone=None, num_classes=91)
    for (
        module
    ) in network.modules():  # one step settles the statistics: else all places score the same
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        features = network.train().backbone(torch.rand(4, 3, 320, 320))
        if model.startswith("ssd"):
            network.head(list(features.values()))
        for name, parameter in network.named_parameters():
            if "cls_score" in name:  # SSD's scores differ enough already
                parameter.mul_(3)
    torch.save(network.state_dict(), path)
    return path


def min_score(model: str, weights: Path, frames: NDArray[np.uint8]) -> float:
    """Return the score limit at which a frame has DETECTIONS detections on average.

    `frames` is (N, H, W, 3) uint8 RGB.
    """
    detector = build_detector(f"torchvision/{model}", weights=str(weights), min_score=0.01)
    found = detector.detect(frames, frames.shape[2], frames.shape[1])
    scores = sorted((one.score for frame in found for one in frame), reverse=True)
    wanted = DETECTIONS * len(frames)
    return scores[wanted] if len(scores) > wanted else catalogue.DEFAULT_MIN_SCORE
