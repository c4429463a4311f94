"""torchvision's detection models, with its COCO weights or with a user's file.

On a GPU the backbone runs in bfloat16; that has not been run on a GPU.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidan.detection import catalogue
from vidan.detection.arrays import check_pixels
from vidan.detection.detector import Detector
from vidan.detection.device import Place, works
from vidan.domain.detection import Detection
from vidan.errors import InputRejected, RejectedTask, VidanError

_COCO_CLASSES = 91  # category ids from 0 (the background) to 90
_CLASSIFIER = re.compile(
    r"(box_predictor\.cls_score|classification_head\.(cls_logits|module_list\.0(\.1)?))\.bias$"
)
_SAVE_HINT = "a state dict of the same model, as torch.save(model.state_dict(), FILE) writes it"


class TorchvisionDetector(Detector):
    """A Detector: one of torchvision's detection models.

    `weights` is a state dict written by torch.save, or a safetensors file; None stands for
    torchvision's own weights for COCO, downloaded at the first use. If the weights have 91 classes,
    these are COCO's; otherwise they are called class_1, class_2, … (a `module:factory` can give
    them names).
    """

    accepts_mixed_sizes = True

    def __init__(
        self,
        model: str,
        *,
        weights: str | None,
        min_score: float,
        labels: Sequence[str] | None,
        size: tuple[int, int] | None,
        place: Place,
    ) -> None:
        device = place.device
        network, classes = _network(model.removeprefix("torchvision/"), weights)
        self._names = _class_names(classes)
        known = tuple(self._names.values())
        try:
            catalogue.check_labels(labels or (), known)
        except InputRejected as error:
            raise RejectedTask(str(error), hint=error.hint) from None
        self.labels = tuple(name for name in known if labels is None or name in labels)
        self.batch_size = 4 if device.type == "cpu" else 8
        self._min_score = min_score
        self._place = place
        self.max_parallel = place.max_parallel
        self.prefers_small_calls = place.prefers_small_calls
        # the models' own thresholds (0.001 to 0.2) would hide detections with a lower score
        heads = getattr(network, "roi_heads", network)
        heads.score_thresh = min_score
        self._limit = heads.detections_per_img
        if labels is not None:  # detections with other labels must not use up the limit
            heads.detections_per_img *= 10
        if size is not None:
            network.transform.fixed_size = (size[1], size[0])
        self._transform = network.transform
        network.backbone = _Autocast(network.backbone, place)
        # ssdlite320 on one core: 29 ms per frame in batches of four, 42 ms one by one; 52 ms with
        # separate planes
        self._network = place.put(network)
        if size is not None:
            self._try(model, size)

    def prepare_thread(self, lane: int, lanes: int) -> None:
        """Take this lane's share of the device; see Place."""
        self._place.prepare_thread(lane, lanes)

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (H, W) to which the network would scale such a frame, if that is smaller."""
        if self._transform.fixed_size is not None:
            return self._transform.fixed_size[1], self._transform.fixed_size[0]
        scale = min(
            1.0,
            self._transform.min_size[-1] / min(height, width),
            self._transform.max_size / max(height, width),
        )
        return max(1, round(height * scale)), max(1, round(width * scale))

    @torch.inference_mode()
    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        """Return the detections of each frame, the best first, up to the network's own limit."""
        check_pixels(pixels)
        if len(pixels) == 0:
            return []
        frames = self._place.send(pixels).permute(0, 3, 1, 2).float() / 255
        scale = np.array([width / pixels.shape[2], height / pixels.shape[1]] * 2)
        limit = np.array([width, height] * 2, dtype=np.float64)
        results = self._network(list(frames.contiguous()))
        found = torch.cat([_rows(result) for result in results]).cpu().double().numpy()
        ends = np.cumsum([len(result["scores"]) for result in results])
        return [self._detections(rows, scale, limit) for rows in np.split(found, ends[:-1])]

    def _try(self, model: str, size: tuple[int, int]) -> None:
        """Raise RejectedTask if the network fails for a blank frame: SSD does for small ones."""
        try:
            self.detect(np.zeros((1, *size, 3), dtype=np.uint8), size[1], size[0])
        except torch.OutOfMemoryError:  # a GPU that has little free memory now
            raise
        except RuntimeError as error:
            if not works(self._place.device):
                raise
            raise RejectedTask(
                f"{model} can't take {size[0]}x{size[1]}",
                hint="leave size out, or try a larger one",
            ) from error

    def _detections(
        self, found: NDArray[np.float64], scale: NDArray[np.float64], limit: NDArray[np.float64]
    ) -> list[Detection]:
        """Turn one frame's rows of `_rows` into detections in pixels of the source."""
        boxes = np.clip(found[:, :4] * scale, 0, limit).tolist()
        kept = [
            Detection(box=(x1, y1, x2, y2), label=name, score=score)
            for (x1, y1, x2, y2), (label, score) in zip(boxes, found[:, 4:].tolist(), strict=True)
            if (name := self._names.get(int(label))) is not None
            and name in self.labels
            and score >= self._min_score
        ]
        return kept[: self._limit]


class _Autocast(nn.Module):
    """A backbone that computes in 16 bits on a GPU and returns float32.

    The rest of the network stays in float32: bfloat16 is too coarse for a coordinate of 800 pixels.
    """

    def __init__(self, backbone: nn.Module, place: Place) -> None:
        super().__init__()
        self.backbone = backbone
        self.device_type = place.device.type
        self.half_type = place.half

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        enabled = self.device_type == "cuda"
        with torch.autocast(self.device_type, dtype=self.half_type, enabled=enabled):
            features: dict[str, Tensor] = self.backbone(x)
        return {name: feature.float() for name, feature in features.items()}


def _rows(result: Mapping[str, Tensor]) -> Tensor:
    """Join a frame's boxes (K, 4) in pixels of the input, labels (K,) and scores (K,) to (K, 6)."""
    boxes = result["boxes"]
    columns = [result[key][:, None].to(boxes.dtype) for key in ("labels", "scores")]
    return torch.cat((boxes, *columns), dim=1)


def _network(name: str, weights: str | None) -> tuple[Any, int]:
    """Return the model with its weights, on the CPU, and the number of classes with background."""
    from torchvision.models import get_model

    if weights is None:
        try:
            return get_model(name, weights="DEFAULT", progress=False), _COCO_CLASSES
        except (OSError, RuntimeError) as error:  # no network, or a wrong checksum
            reason = str(error).partition("\n")[0]
            raise VidanError(
                f"torchvision could not download the weights of {name}: {reason}",
                hint="name a file that you have: weights=FILE",
            ) from error
    state = _state_dict(Path(weights))
    unfit = RejectedTask(f"the weights do not fit torchvision/{name}: {weights}", hint=_SAVE_HINT)
    with torch.device("meta"):  # without memory: only the shapes are needed
        standard = get_model(name, weights=None, weights_backbone=None, num_classes=_COCO_CLASSES)
    per_class = _outputs(standard.state_dict()) // _COCO_CLASSES
    if _outputs(state) % per_class or _outputs(state) < 2 * per_class:
        raise unfit
    classes = _outputs(state) // per_class
    network = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape differs
        raise unfit from error
    # num_batches_tracked is used by training only; torchvision's own files lack it
    if any(not key.endswith("num_batches_tracked") for key in [*missing, *unexpected]):
        raise unfit
    return network, classes


# errors that unpickling damaged files was seen to raise
_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, AssertionError, TypeError),
    *(AttributeError, struct.error, pickle.UnpicklingError),
)


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    try:
        state: Any
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise RejectedTask(f"not a file of weights: {path}", hint=_SAVE_HINT) from error
    except safetensors.SafetensorError as error:
        raise RejectedTask(f"not a safetensors file: {path}", hint=_SAVE_HINT) from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # a checkpoint as torchvision's training script writes it
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RejectedTask(f"not a state dict: {path}", hint=_SAVE_HINT)
    return dict(state)


def _outputs(state: Mapping[str, Tensor]) -> int:
    """Return the classifier's outputs per place, classes × anchors; 0 if there is no classifier."""
    for key, tensor in state.items():
        if _CLASSIFIER.search(key):
            return int(tensor.shape[0])
    return 0


def _class_names(classes: int) -> dict[int, str]:
    """Map class index to label. Index 0 is the background; some of COCO's indices are unused."""
    if classes == _COCO_CLASSES:
        return dict(zip(catalogue.COCO_IDS, catalogue.COCO_LABELS, strict=True))
    return {i: f"class_{i}" for i in range(1, classes)}
