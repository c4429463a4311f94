"""Frames and weights for the tests of detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidan.detection import catalogue

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 768, 576
"""The size of the sample video."""
SSDLITE = "ssdlite320_mobilenet_v3_large"


def save_random(name: str, path: Path, classes: int = 91) -> Path:
    """Save a state dict of torchvision's model as after a training, but untrained."""
    import torch
    from torchvision.models import get_model

    torch.manual_seed(7)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    for (
        module
    ) in model.modules():  # one step settles the statistics: else all places score the same
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        features = model.train().backbone(torch.rand(4, 3, 320, 320))
        if name.startswith("ssd"):
            model.head(list(features.values()))
    state = model.state_dict()
    for key, tensor in state.items():
        if "classification_head" in key and key.endswith(".1.bias"):
            tensor.add_(3 * torch.randn_like(tensor))  # so that scores differ
    torch.save(state, path)
    return path


def sample_frames() -> Pixels:
    """Return every 20th frame of the sample video: (10, 576, 768, 3)."""
    import av

    with av.open(str(catalogue.sample_video())) as container:
        pictures = [
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(video=0))
            if number % 20 == 0
        ]
    return np.stack(pictures).astype(np.uint8)
