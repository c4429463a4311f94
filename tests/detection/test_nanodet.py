"""NanoDet-g: the reference's detections, its input, its bounds, its weights."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.support.detectors import HEIGHT, WIDTH, Pixels
from vidan.detection import catalogue
from vidan.detection.building import build_detector
from vidan.detection.device import Place
from vidan.detection.nanodet import NanoDet, input_size
from vidan.errors import RejectedTask

REFERENCE = Path(__file__).parent.parent / "reference" / "nanodet_reference.json"


def reference() -> dict[str, list[dict[str, Any]]]:
    frames: dict[str, list[dict[str, Any]]] = json.loads(REFERENCE.read_text())["frames"]
    return frames


def test_nanodet_finds_what_the_reference_has(frames: Pixels) -> None:
    """The reference's boxes are not cut at the frame's edge (by up to 2 pixels); ours are."""
    detector = build_detector("nanodet-g", threads=1)
    found = detector.detect(frames, WIDTH, HEIGHT)
    for number, detections in zip(range(0, 200, 20), found, strict=True):
        wanted = reference()[str(number)]
        assert [d.label for d in detections] == [w["label"] for w in wanted]
        for detection, want in zip(detections, wanted, strict=True):
            box = np.clip(want["box"], 0, [WIDTH, HEIGHT] * 2)
            assert abs(detection.score - want["score"]) < 1e-3
            assert np.abs(np.subtract(detection.box, box)).max() < 0.5


def test_nanodet_in_bfloat16_finds_nearly_the_same(frames: Pixels, like_a_gpu: Place) -> None:
    """The computation of a GPU, on the CPU: it finds the reference's good detections."""
    detector = NanoDet(catalogue.NANODET_WEIGHTS, autocast=True, place=like_a_gpu)
    found = detector.detect(frames[:2], WIDTH, HEIGHT)
    for number, detections in zip((0, 20), found, strict=True):
        for want in reference()[str(number)]:
            box = np.clip(want["box"], 0, [WIDTH, HEIGHT] * 2)
            if want["score"] > 0.6:
                assert any(
                    d.label == want["label"]
                    and abs(d.score - want["score"]) < 0.05
                    and np.abs(np.subtract(d.box, box)).max() < 4
                    for d in detections
                )


@pytest.mark.parametrize("min_score", [0.0, 0.35, 0.999])
def test_nanodets_best_places_are_those_above_its_min_score(
    frames: Pixels, min_score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU always takes the same number of places; the detections are the same."""
    waits = NanoDet(catalogue.NANODET_WEIGHTS, min_score=min_score)
    never = NanoDet(catalogue.NANODET_WEIGHTS, min_score=min_score, autocast=True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # float32 for both
    for one, other in zip(
        waits.detect(frames[:2], WIDTH, HEIGHT),
        never.detect(frames[:2], WIDTH, HEIGHT),
        strict=True,
    ):
        assert bool(one) == (min_score < 0.9)
        assert one == other


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((576, 768), (416, 544)),
        ((272, 640), (352, 832)),
        ((720, 1280), (416, 736)),
        ((1920, 1080), (736, 416)),
        ((500, 500), (416, 416)),
        ((10, 4000), (32, 832)),
    ],
)
def test_nanodet_input_keeps_the_aspect(source: tuple[int, int], expected: tuple[int, int]) -> None:
    assert input_size(*source) == expected


def test_nanodet_takes_scaled_frames(frames: Pixels) -> None:
    """Frames decoded at the network's size, their boxes in pixels of the source."""
    detector = build_detector(size=(416, 544), threads=1)
    assert detector.decode_size(1080, 1920) == (416, 544)
    picture = av.VideoFrame.from_ndarray(frames[0], format="rgb24")
    scaled = picture.reformat(width=544, height=416).to_ndarray(format="rgb24")
    [detections] = detector.detect(scaled[None].astype(np.uint8), WIDTH, HEIGHT)
    want = reference()["0"][0]
    assert detections[0].label == want["label"]
    assert np.abs(np.subtract(detections[0].box, want["box"])).max() < 8


def test_nanodet_bounds_the_work_at_min_score_zero(frames: Pixels) -> None:
    [detections] = build_detector(min_score=0.0, threads=1).detect(frames[:1], WIDTH, HEIGHT)
    assert len(detections) == 100
    best = reference()["0"]
    assert [d.label for d in detections[: len(best)]] == [want["label"] for want in best]


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "weights.safetensors"
    content = bytearray(catalogue.NANODET_WEIGHTS.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RejectedTask, match="damaged"):
        NanoDet(damaged, sha256=catalogue.NANODET_SHA256)


def test_own_weights_for_nanodet(tmp_path: Path, frames: Pixels) -> None:
    copy = shutil.copy(catalogue.NANODET_WEIGHTS, tmp_path / "own.safetensors")
    own = build_detector(weights=str(copy), threads=1).detect(frames[:1], WIDTH, HEIGHT)
    assert own == build_detector(threads=1).detect(frames[:1], WIDTH, HEIGHT)
