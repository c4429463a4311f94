"""NanoDet-g, the built-in detector: 3.79 M parameters, COCO's 80 classes.

The network is NanoDet's (https://github.com/RangiLyu/nanodet, Apache-2.0) in its configuration
"nanodet-g": a CSP backbone, a PAN neck and a head that predicts each side of a box as a
distribution over 11 bins (generalised focal loss, https://arxiv.org/abs/2006.04388). Batch norm
is folded into the convolutions. CUDA runs the same code with the network in bfloat16 and boxes in
float32; that has not been run on a GPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidan.detection import catalogue
from vidan.detection.arrays import check_pixels, nms
from vidan.detection.detector import Detector
from vidan.detection.device import Place
from vidan.detection.nanodet_network import BINS, STRIDES, Network
from vidan.domain.detection import Detection
from vidan.errors import RejectedTask

SHORT_SIDE = 416
"""Length, in pixels, of the shorter side of the network's input."""
LONG_SIDE = 832
"""Largest length, in pixels, of the longer side of the network's input."""
IOU_LIMIT = 0.6
"""Overlap (intersection over union) above which the weaker of two boxes is dropped."""
MAX_DETECTIONS = 100
"""Most detections of one frame."""
MAX_CANDIDATES = 1000
"""Most boxes of one frame before NMS, the best ones: bounds the work when min_score is low."""

# mean and standard deviation of R, G and B, in 0…255
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class NanoDet(Detector):
    """A Detector: the network, with the preparation of its input and the decoding of its output.

    `weights` is a safetensors file, float16 or float32; with `sha256` it must have that digest.
    `labels` are the ones to keep, `size` is the input's (H, W), None for `input_size`. `autocast`
    is meant for GPUs: the network runs in 16 bits, and the host waits for no result halfway.
    Raises RejectedTask if the weights are damaged or do not fit.
    """

    accepts_mixed_sizes = True

    def __init__(
        self,
        weights: Path,
        *,
        sha256: str | None = None,
        labels: Sequence[str] = catalogue.COCO_LABELS,
        min_score: float = catalogue.DEFAULT_MIN_SCORE,
        size: tuple[int, int] | None = None,
        place: Place | None = None,
        autocast: bool = False,
    ) -> None:
        self._place = place or Place.of("cpu")
        self.device = self._place.device
        self.max_parallel = self._place.max_parallel
        self.prefers_small_calls = self._place.prefers_small_calls
        self.labels = tuple(label for label in catalogue.COCO_LABELS if label in set(labels))
        # a CPU gains nothing from larger batches; a GPU needs them to be busy
        self.batch_size = 4 if self.device.type == "cpu" else 32
        columns = [catalogue.COCO_LABELS.index(label) for label in self.labels]
        self._columns = torch.tensor(columns, device=self.device)
        self._min_score = min_score
        self._size = size
        self._autocast = autocast
        network = Network(len(catalogue.COCO_LABELS))
        _load(network, weights, sha256)
        # frames have their channels last; the network is faster so, too: 87 instead of 141 ms
        # per frame on one core
        self._network = self._place.put(network)

    def prepare_thread(self, lane: int, lanes: int) -> None:
        """Take this lane's share of the device; see Place."""
        self._place.prepare_thread(lane, lanes)

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (H, W) of the network's input for a source of that size."""
        return self._size or input_size(height, width)

    @torch.inference_mode()
    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        """Return the detections of each frame, the best first.

        `pixels` is (N, H, W, 3) uint8 RGB; boxes are in pixels of a `width` x `height` source.
        """
        check_pixels(pixels)
        if len(pixels) == 0:
            return []
        size = self.decode_size(height, width)
        frames = normalise(self._place.send(pixels), size)
        with torch.autocast(self.device.type, dtype=self._place.half, enabled=self._autocast):
            logits = self._network(frames)
        rows = self._candidates(logits.float(), size).cpu().numpy()  # in one transfer
        found = rows[rows[:, 2] > self._min_score].astype(np.float64)
        scale = np.array([width / size[1], height / size[0]] * 2)
        limit = np.array([width, height] * 2, dtype=np.float64)
        return [self._detections(found[found[:, 0] == n], scale, limit) for n in range(len(pixels))]

    def _candidates(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Decode (N, cells, 80 + 4·11) to (K, 7): frame, label's index, score, x1, y1, x2, y2.

        Boxes are in pixels of the network's input. A frame has at most MAX_CANDIDATES rows: those
        above `min_score`, and maybe some below.
        """
        of_labels = logits.index_select(2, self._columns)
        frame, cell, column = self._best(of_labels)
        scores = of_labels[frame, cell, column].sigmoid()
        centres, strides = _grid(size, logits.device)
        bins = logits[frame, cell, -4 * BINS :].reshape(-1, 4, BINS).softmax(2)
        expected = bins @ torch.arange(BINS, dtype=bins.dtype, device=bins.device)
        sides = expected * strides[cell, None]  # (K, 4): left, top, right, bottom of the centre
        boxes = torch.cat((centres[cell] - sides[:, :2], centres[cell] + sides[:, 2:]), dim=1)
        return torch.cat((torch.stack((frame, column, scores), dim=1), boxes), dim=1)

    def _best(self, of_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the (N, cells, labels) logits that may exceed `min_score`: frame, cell, column.

        On a GPU these are always the MAX_CANDIDATES best, since counting those above `min_score`
        would make the host wait in the middle of a batch.
        """
        if not self._autocast:
            places = (of_labels > _logit(self._min_score)).nonzero(as_tuple=True)
            if len(places[0]) <= MAX_CANDIDATES:
                return places[0], places[1], places[2]
        count = min(MAX_CANDIDATES, of_labels[0].numel())
        best = of_labels.flatten(1).topk(count).indices
        frame = torch.arange(len(best), device=best.device).repeat_interleave(count)
        return frame, best.flatten() // len(self.labels), best.flatten() % len(self.labels)

    def _detections(
        self, found: NDArray[np.float64], scale: NDArray[np.float64], limit: NDArray[np.float64]
    ) -> list[Detection]:
        """Turn one frame's rows of `_candidates` into detections in pixels of the source."""
        found = found[np.argsort(-found[:, 2], kind="stable")]
        kept = found[nms(found[:, 3:], found[:, 1], IOU_LIMIT, MAX_DETECTIONS)]
        boxes = np.clip(kept[:, 3:] * scale, 0, limit)
        return [
            Detection(box=(x1, y1, x2, y2), label=self.labels[int(column)], score=score)
            for (x1, y1, x2, y2), column, score in zip(
                boxes.tolist(), kept[:, 1], kept[:, 2].tolist(), strict=True
            )
        ]


def input_size(height: int, width: int) -> tuple[int, int]:
    """Return the (H, W) of the network's input: the source's aspect ratio, in multiples of 32.

    The short side becomes 416 pixels, or less so that the long side has at most 832; both are
    rounded to the nearest multiple. 576x768 → 416x544, 720x1280 → 416x736, 272x640 → 352x832.
    (With 416x416 for every source much less is found: of 50 frames of a street at 640x272, 11
    instead of 41 have a detection.)
    """
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    multiple = catalogue.NANODET_MULTIPLE
    rounded = [
        max(1, math.floor(side * scale / multiple + 0.5)) * multiple for side in (height, width)
    ]
    return rounded[0], rounded[1]


def normalise(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn (N, H, W, 3) uint8 RGB into (N, 3, *size) float32: resized, zero mean, unit deviation.

    Frames become float before they are resized: resizing uint8 rounds each value, which changes
    scores by up to 0.01. With channels last that costs 4 ms more for a 720p frame on one core,
    with separate planes it would cost 15 ms.
    """
    x = frames.permute(0, 3, 1, 2).float()
    if x.shape[2:] != size:
        x = functional.interpolate(x, size, mode="bilinear", align_corners=False, antialias=False)
    # rows of W·3 values: fast on a CPU
    rows = x.permute(0, 2, 3, 1).reshape(-1, size[0], size[1] * 3)
    mean, std = _row(size[1], x.device)
    return ((rows - mean) / std).view(-1, size[0], size[1], 3).permute(0, 3, 1, 2)


# The next two are computed on the CPU and never freed: each lane of a GPU has a stream of its own,
# which does not wait until another lane's stream has computed them. Inputs have few sizes.


@cache
def _row(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the values of one row, both (width·3,)."""
    mean, std = (torch.tensor(values).repeat(width) for values in (MEAN, STD))
    return mean.to(device), std.to(device)


@cache
def _grid(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return centres (cells, 2) as x, y and strides (cells,), in pixels of the input."""
    centres, strides = [], []
    for stride in STRIDES:
        ys = (torch.arange(size[0] // stride) + 0.5) * stride
        xs = (torch.arange(size[1] // stride) + 0.5) * stride
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        centres.append(torch.stack((x.flatten(), y.flatten()), dim=1))
        strides.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres).to(device), torch.cat(strides).to(device)


def _logit(score: float) -> float:
    """Return a value a little below the logit of `score`, so that rounding loses no detection."""
    if score <= 0:
        return -math.inf
    return math.log(score / (1 - score)) - 1e-3 if score < 1 else math.inf


def _load(network: Network, path: Path, sha256: str | None) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RejectedTask(
            f"the weights can't be read ({error.strerror}): {path}",
            hint="weights=FILE names a file on the worker's machine",
        ) from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise RejectedTask(
            f"the weights are damaged: {path} does not have the checksum {sha256[:12]}…",
            hint="install vidan again",
        )
    try:
        tensors = safetensors.torch.load(content)
        # the published network takes BGR: reversing its first convolution makes it take RGB
        tensors["stem.conv.weight"] = tensors["stem.conv.weight"].flip(1)
        network.load_state_dict(tensors)
    except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
        raise RejectedTask(
            f"the weights do not fit {catalogue.DEFAULT_MODEL}: {path}",
            hint="a safetensors file with the tensors of the built-in one",
        ) from error
