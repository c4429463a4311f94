"""Builds the detector that a model's name stands for. Light to import: building loads torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vidan.detection import catalogue
from vidan.detection.detector import Detector
from vidan.errors import DeviceLost, InputRejected, MissingExtra, RejectedTask


def build_detector(
    model: str = catalogue.DEFAULT_MODEL,
    *,
    weights: str | None = None,
    min_score: float = catalogue.DEFAULT_MIN_SCORE,
    labels: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Detector:
    """Load `model`: nanodet-g, torchvision/<name> or module:factory.

    Detections have one of `labels` (None: any) and at least `min_score`. `size` is the (H, W) of
    the network's input, None for the model's own. `device` is cpu, cuda or cuda:N. `threads` is
    set for the whole process. Raises RejectedTask for what no retry can fix, InputRejected if
    `device` is no name of a device, DeviceLost if the device is missing, VidanError if weights
    can't be downloaded.
    """
    try:
        catalogue.check_model(model, weights=weights, labels=labels, size=size, min_score=min_score)
    except InputRejected as error:
        raise RejectedTask(str(error), hint=error.hint) from None
    try:
        return _load(model, weights, min_score, labels, size, device, threads)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"detecting objects needs {error.name}", hint="pip install 'vidan[worker]'"
        ) from error


def device_lost(error: BaseException, device: str) -> DeviceLost | None:
    """Return a DeviceLost if this process can't use the device after `error`, else None."""
    if isinstance(error, DeviceLost):
        return error
    if device == "cpu" or "torch" not in sys.modules:
        return None
    from vidan.detection.device import works

    if works(device):
        return None
    lost = DeviceLost(f"{device} is lost to this process: {error}")
    lost.__cause__ = error
    return lost


def _load(
    model: str,
    weights: str | None,
    min_score: float,
    labels: Sequence[str] | None,
    size: tuple[int, int] | None,
    device: str,
    threads: int | None,
) -> Detector:
    from vidan.detection.device import Place, set_threads

    if threads is not None:
        set_threads(threads)
    place = Place.of(device)
    if catalogue.is_factory(model):
        from vidan.detection.custom import FactoryDetector

        return FactoryDetector(
            model, weights=weights, min_score=min_score, labels=labels, size=size, device=device
        )
    if model == catalogue.DEFAULT_MODEL:
        from vidan.detection.nanodet import NanoDet

        return NanoDet(
            Path(weights) if weights else catalogue.NANODET_WEIGHTS,
            sha256=None if weights else catalogue.NANODET_SHA256,
            labels=labels or catalogue.COCO_LABELS,
            min_score=min_score,
            size=size,
            place=place,
            autocast=place.device.type == "cuda",
        )
    from vidan.detection.torchvision_models import TorchvisionDetector

    return TorchvisionDetector(
        model, weights=weights, min_score=min_score, labels=labels, size=size, place=place
    )
