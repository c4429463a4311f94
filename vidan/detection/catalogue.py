"""Which detection models there are, their labels, and what the task `detect` accepts.

Quick to import, without torch: commands and services use it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidan.domain.bounds import DECODERS
from vidan.errors import InputRejected, NotFoundError
from vidan.suggestions import did_you_mean

_PACKAGE = Path(__file__).parents[1]

DEFAULT_MODEL = "nanodet-g"
DEFAULT_MIN_SCORE = 0.35
NANODET_WEIGHTS = _PACKAGE / "weights" / "nanodet_g_coco.safetensors"
NANODET_SHA256 = "cfcfde5c3355ba0e39ed7022c31b1ff4dc38a48c53e1eaee0eb6508866251091"
MIN_SIDE, MAX_SIDE = 32, 4096
"""Smallest and largest height and width, in pixels, of a model's input."""
NANODET_MULTIPLE = 32
"""The network's coarsest stride, in pixels: height and width of its input are multiples of it."""

COCO_LABELS: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO's object detection, in the order of their category ids."""

_UNUSED_COCO_IDS = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS: tuple[int, ...] = tuple(i for i in range(91) if i not in _UNUSED_COCO_IDS)
"""The category id (1…90) of each of COCO_LABELS, as in torchvision's models and COCO files."""


@dataclass(frozen=True, slots=True)
class Model:
    """A detection model that the parameter `model` can name.

    `labels` are the names that its detections carry with its standard weights; `size` describes
    its default input; `weights` is the file in this package, None if torchvision downloads the
    weights at the first use. `family` names the builder in `building` and the check in
    `_CHECKS`, which all models of one kind share.
    """

    name: str
    family: str
    labels: tuple[str, ...]
    size: str
    weights: Path | None
    licence: str
    summary: str


def _torchvision(name: str, size: str, parameters: float, box_map: float) -> Model:
    return Model(
        name=f"torchvision/{name}",
        family="torchvision",
        labels=COCO_LABELS,
        size=size,
        weights=None,
        licence="BSD-3-Clause (torchvision)",
        summary=f"{parameters:.1f} M parameters, COCO mAP {box_map}; weights are downloaded, "
        "or weights=FILE",
    )


_LARGE = "short side 800, long side at most 1333"
_MODELS = (
    Model(
        name=DEFAULT_MODEL,
        family="nanodet",
        labels=COCO_LABELS,
        size="short side 416, long side at most 832, multiples of 32",
        weights=NANODET_WEIGHTS,
        licence="Apache-2.0 (NanoDet)",
        summary="3.8 M parameters, COCO mAP 22.9; in the package, nothing is downloaded",
    ),
    _torchvision("fasterrcnn_mobilenet_v3_large_320_fpn", "short side 320", 19.4, 22.8),
    _torchvision("fasterrcnn_mobilenet_v3_large_fpn", _LARGE, 19.4, 32.8),
    _torchvision("fasterrcnn_resnet50_fpn", _LARGE, 41.8, 37.0),
    _torchvision("fasterrcnn_resnet50_fpn_v2", _LARGE, 43.7, 46.7),
    _torchvision("fcos_resnet50_fpn", _LARGE, 32.3, 39.2),
    _torchvision("retinanet_resnet50_fpn", _LARGE, 34.0, 36.4),
    _torchvision("retinanet_resnet50_fpn_v2", _LARGE, 38.2, 41.5),
    _torchvision("ssd300_vgg16", "300x300", 35.6, 25.1),
    _torchvision("ssdlite320_mobilenet_v3_large", "320x320", 3.4, 21.3),
)

MAX_LABELS = 10_000
"""Most labels that the parameter `labels` may name."""

MAX_LABEL = 1_000
"""Most characters of one label, and of a model's name."""

MAX_PATH = 4_096
"""Most characters of the path of a file, as Linux bounds it."""

_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_LABEL}
DETECT_SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "detect",
    "description": "Finds objects in every frame of a video.",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": {
            **_NAME,
            "default": DEFAULT_MODEL,
            "description": "nanodet-g, torchvision/<name>, or module:factory",
        },
        "weights": {
            **_NAME,
            "maxLength": MAX_PATH,
            "description": "a weights file, at its path on the worker",
        },
        "min_score": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": DEFAULT_MIN_SCORE,
            "description": "drop detections that score below it",
        },
        "labels": {
            "type": "array",
            "items": _NAME,
            "minItems": 1,
            "maxItems": MAX_LABELS,
            "description": "the labels to keep, each one once; all by default",
        },
        "size": {
            "type": "string",
            "pattern": "^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$",
            "description": "the model's input, HEIGHTxWIDTH; by default it keeps the aspect",
        },
        "every": {"type": "integer", "minimum": 1, "description": "every Nth frame"},
        "fps": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "frames per second of video",
        },
        "decoder": {"enum": list(DECODERS), "default": DECODERS[0]},
        "deinterlace": {
            "type": "boolean",
            "default": False,
            "description": "of interlaced pictures, analyse the top field alone",
        },
    },
}
"""The JSON Schema of the parameters of the built-in task `detect`."""


def models() -> tuple[Model, ...]:
    """Return all built-in models, the default first. A user's own is named `module:factory`."""
    return _MODELS


def find_model(name: str) -> Model:
    """Return the model of that name; raises NotFoundError that suggests similar names."""
    for model in _MODELS:
        if model.name == name:
            return model
    known = [model.name for model in _MODELS]
    raise NotFoundError(
        f"no such model: {name}",
        hint=f"{did_you_mean(name, known)} `vidan models list` shows all;"
        " name your own detector module:factory",
    )


def is_factory(name: str) -> bool:
    """Whether `name` has the shape `module:factory`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def sample_video() -> Path:
    """Return the video in this package: pedestrians, 768x576, 200 frames, 10 per second."""
    return _PACKAGE / "samples" / "pedestrians.mp4"


def parse_size(text: str) -> tuple[int, int]:
    """Parse `"416x544"` into (416, 544), height and width in pixels; raises InputRejected."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text, re.ASCII)
    if match is None:
        raise InputRejected(
            f"not a size: {text!r}", hint="write HEIGHTxWIDTH in pixels, for example 416x544"
        )
    return int(match[1]), int(match[2])


def check_model(
    model: str,
    *,
    weights: str | None = None,
    labels: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    min_score: float | None = None,
) -> None:
    """Raise InputRejected for options that can't work; its hint names those that exist.

    `size` is (H, W) in pixels. Weights files are checked as far as that is possible without torch.
    Of `module:factory` only the form of the name is checked: the module may exist on workers only.
    """
    if min_score is not None and not 0 <= min_score <= 1:
        raise InputRejected(f"min_score is {min_score}", hint="it is a number from 0 to 1")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InputRejected(f"not a size: {size}", hint="height and width in pixels, at least 1")
    if weights is not None:
        _check_file(Path(weights))
    if not is_factory(model):
        _check_built_in(model, weights, labels, size)


def _check_built_in(
    model: str, weights: str | None, labels: Sequence[str] | None, size: tuple[int, int] | None
) -> None:
    try:
        known = find_model(model)
    except NotFoundError as error:
        raise InputRejected(str(error), hint=error.hint) from None
    if size is not None and (min(size) < MIN_SIDE or max(size) > MAX_SIDE):
        raise InputRejected(
            f"{model} can't take {size[0]}x{size[1]}",
            hint=f"height and width are from {MIN_SIDE} to {MAX_SIDE} pixels",
        )
    unnamed = _CHECKS[known.family](weights, size)
    check_labels(labels or (), known.labels, unnamed=unnamed)


def check_labels(labels: Iterable[str], known: Sequence[str], *, unnamed: bool = False) -> None:
    """Raise InputRejected for the first of `labels` that is not in `known`.

    With `unnamed`, class_1, class_2, … are accepted, too.
    """
    for label in labels:
        if label not in known and not (unnamed and re.fullmatch(r"class_[1-9]\d*", label)):
            raise InputRejected(f"no such label: {label}", hint=did_you_mean(label, known))


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            problem = "no such weights file" if not path.exists() else "the weights are not a file"
        elif path.stat().st_size == 0:
            problem = "the weights file is empty"
        else:
            with path.open("rb"):
                return
    except OSError as error:
        problem = f"the weights can't be read ({error.strerror})"
    raise InputRejected(f"{problem}: {path}", hint="weights=FILE names a file on this machine")


def _check_nanodet(weights: str | None, size: tuple[int, int] | None) -> bool:
    """Check weights and size of NanoDet. Returns False: its weights have the classes of COCO."""
    if size is not None and (size[0] % NANODET_MULTIPLE or size[1] % NANODET_MULTIPLE):
        rounded = "x".join(
            str(max(1, round(n / NANODET_MULTIPLE)) * NANODET_MULTIPLE) for n in size
        )
        raise InputRejected(
            f"{DEFAULT_MODEL} can't take {size[0]}x{size[1]}",
            hint=f"height and width are multiples of {NANODET_MULTIPLE}, for example {rounded}",
        )
    if weights is None and not NANODET_WEIGHTS.is_file():
        raise InputRejected(f"the installation lacks {NANODET_WEIGHTS}", hint="install vidan again")
    if weights is not None and _tensor_shapes(Path(weights)) != _tensor_shapes(NANODET_WEIGHTS):
        raise InputRejected(
            f"the weights do not fit {DEFAULT_MODEL}: {weights}",
            hint="the tensors must be those of the built-in weights: COCO's 80 classes",
        )
    return False


def _check_torchvision(weights: str | None, _size: tuple[int, int] | None) -> bool:
    """Check weights of a torchvision model. Returns whether their classes may have no names.

    A user's weights may have other classes, which are then called class_1, class_2, …
    """
    if weights is not None:
        _check_torchvision_weights(Path(weights))
    return weights is not None


def _check_torchvision_weights(path: Path) -> None:
    """Check the first bytes: torch.save writes a zip file, and in old versions a pickle."""
    if path.suffix == ".safetensors":
        _tensor_shapes(path)
        return
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04" and start[:1] != b"\x80":
        raise InputRejected(
            f"not a file of weights: {path}", hint="save the state dict with torch.save"
        )


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Return names and shapes from a safetensors file: 8 bytes of length, then a JSON header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputRejected(
            f"not a safetensors file: {path}", hint="save the tensors with safetensors.torch"
        ) from None


def detect_params(params: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Return params of the built-in task with the path of the weights made absolute.

    With `check`, raises InputRejected for a missing weights file or an unknown model; the service
    checks the rest.
    """
    found = dict(params)
    model, weights = found.get("model", DEFAULT_MODEL), found.get("weights")
    if isinstance(weights, str) and weights:
        found["weights"] = str(Path(weights).expanduser().absolute())
        if check and isinstance(model, str):
            check_model(model, weights=found["weights"])
    return found


_CHECKS = {"nanodet": _check_nanodet, "torchvision": _check_torchvision}
"""The check of weights and size for each family; it returns whether labels may have no names."""
