"""Builds the detector that a model's name stands for. Light to import: building loads torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
        return _load(_Wanted(model, weights, min_score, labels, size, device), threads)
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a builder needs to build a detector; see `build_detector`."""

    model: str
    weights: str | None
    min_score: float
    labels: Sequence[str] | None
    size: tuple[int, int] | None
    device: str


def _load(wanted: _Wanted, threads: int | None) -> Detector:
    from vidan.detection.device import set_threads

    if threads is not None:
        set_threads(threads)
    if catalogue.is_factory(wanted.model):
        return _custom(wanted)
    return _BUILDERS[catalogue.find_model(wanted.model).family](wanted)


def _custom(wanted: _Wanted) -> Detector:
    from vidan.detection.custom import FactoryDetector
    from vidan.detection.device import Place

    Place.of(wanted.device)
    return FactoryDetector(
        wanted.model,
        weights=wanted.weights,
        min_score=wanted.min_score,
        labels=wanted.labels,
        size=wanted.size,
        device=wanted.device,
    )


def _nanodet(wanted: _Wanted) -> Detector:
    from vidan.detection.device import Place
    from vidan.detection.nanodet import NanoDet

    place = Place.of(wanted.device)
    return NanoDet(
        Path(wanted.weights) if wanted.weights else catalogue.NANODET_WEIGHTS,
        sha256=None if wanted.weights else catalogue.NANODET_SHA256,
        labels=wanted.labels or catalogue.COCO_LABELS,
        min_score=wanted.min_score,
        size=wanted.size,
        place=place,
        autocast=place.device.type == "cuda",
    )


def _torchvision(wanted: _Wanted) -> Detector:
    from vidan.detection.device import Place
    from vidan.detection.torchvision_models import TorchvisionDetector

    return TorchvisionDetector(
        wanted.model,
        weights=wanted.weights,
        min_score=wanted.min_score,
        labels=wanted.labels,
        size=wanted.size,
        place=Place.of(wanted.device),
    )


_BUILDERS = {"nanodet": _nanodet, "torchvision": _torchvision}
"""For each family of models in the catalogue, the function that builds a detector of it."""
