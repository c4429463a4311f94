"""What every detector promises, checked for each of the three kinds; and factories that fail."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.detectors import HEIGHT, SSDLITE, WIDTH, Pixels, sample_frames, save_random
from vidan.detection.building import build_detector
from vidan.detection.custom import FactoryDetector
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import RejectedTask


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    """The tests' own detector is found in the current directory, as a user's would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        patch.setattr(sys, "path", [p for p in sys.path if Path(p) != Path(__file__).parent])
        yield


@pytest.fixture(scope="module")
def ssdlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(SSDLITE, tmp_path_factory.mktemp("weights") / "ssdlite.pt")


@pytest.fixture(scope="module")
def frames() -> Pixels:
    return sample_frames()


Build = Callable[..., Detector]


@pytest.fixture(scope="module", params=["nanodet-g", "torchvision", "module:factory"])
def build(request: pytest.FixtureRequest, ssdlite: Path) -> Build:
    kinds: dict[str, dict[str, Any]] = {
        "nanodet-g": {"model": "nanodet-g"},
        "torchvision": {
            "model": "torchvision/ssdlite320_mobilenet_v3_large",
            "weights": str(ssdlite),
            "min_score": 0.1,
        },
        "module:factory": {"model": "brightest:build"},
    }
    standard: dict[str, Any] = {"threads": 1, **kinds[request.param]}

    def with_standard(**options: Any) -> Detector:
        return build_detector(**{**standard, **options})

    return with_standard


@pytest.fixture(scope="module")
def detector(build: Build) -> Detector:
    return build()


def close(ones: list[Detection], others: list[Detection], tolerance: float = 1e-3) -> bool:
    return [d.label for d in ones] == [d.label for d in others] and all(
        abs(one.score - other.score) < tolerance
        and np.allclose(one.box, other.box, rtol=0, atol=50 * tolerance)
        for one, other in zip(ones, others, strict=True)
    )


# every detector


def test_each_frame_has_its_detections_the_best_first(detector: Detector, frames: Pixels) -> None:
    results = detector.detect(frames[:3], WIDTH, HEIGHT)
    assert len(results) == 3
    assert detector.batch_size >= 1
    for detections in results:
        assert detections, "the sample shows something to each of them"
        scores = [detection.score for detection in detections]
        assert scores == sorted(scores, reverse=True)
        for detection in detections:
            assert detection.label in detector.labels
            assert type(detection.score) is float
            assert all(type(side) is float for side in detection.box)


def test_boxes_are_in_the_frame(detector: Detector, frames: Pixels) -> None:
    for detection in chain.from_iterable(detector.detect(frames[:3], WIDTH, HEIGHT)):
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 <= x2 <= WIDTH
        assert 0 <= y1 <= y2 <= HEIGHT


def test_only_detectors_of_ours_are_known_to_go_by_the_frames_alone(detector: Detector) -> None:
    assert detector.accepts_mixed_sizes is not isinstance(detector, FactoryDetector)


def test_boxes_are_in_pixels_of_the_source(detector: Detector, frames: Pixels) -> None:
    [plain] = detector.detect(frames[:1], WIDTH, HEIGHT)
    [doubled] = detector.detect(frames[:1], 2 * WIDTH, 2 * HEIGHT)
    halved = [
        Detection(tuple(side / 2 for side in d.box), d.label, d.score)  # type: ignore[arg-type]
        for d in doubled
    ]
    assert close(plain, halved)


def test_scores_are_at_least_min_score(build: Build, frames: Pixels) -> None:
    low, high = build(min_score=0.05), build(min_score=0.6)
    below = [d.score for d in low.detect(frames[:1], WIDTH, HEIGHT)[0]]
    above = [d.score for d in high.detect(frames[:1], WIDTH, HEIGHT)[0]]
    assert all(0.05 <= score <= 1 for score in below)
    assert all(0.6 <= score <= 1 for score in above)
    assert len(above) <= len(below)
    [certain] = build(min_score=1.0).detect(frames[:1], WIDTH, HEIGHT)
    assert all(d.score == 1 for d in certain)


def test_only_the_labels_asked_for(build: Build, detector: Detector, frames: Pixels) -> None:
    [everything] = detector.detect(frames[:1], WIDTH, HEIGHT)
    wanted = everything[0].label
    some = build(labels=[wanted])
    assert some.labels == (wanted,)
    [filtered] = some.detect(frames[:1], WIDTH, HEIGHT)
    shown = [d for d in everything if d.label == wanted]
    assert close(filtered[: len(shown)], shown)
    assert {d.label for d in filtered} == {wanted}
    # a network that had used its limit up (the untrained one) has room for more of them now
    assert len(filtered) == len(shown) or len(everything) > 200


def test_an_unknown_label_is_refused_with_what_exists(build: Build, detector: Detector) -> None:
    with pytest.raises(RejectedTask, match="no such label: persn") as refused:
        build(labels=["persn"])
    assert refused.value.hint is not None
    assert detector.labels[0] in refused.value.hint


def test_an_empty_batch_gives_nothing(detector: Detector, frames: Pixels) -> None:
    assert detector.detect(frames[:0], WIDTH, HEIGHT) == []


def test_a_frame_does_not_depend_on_the_others(detector: Detector, frames: Pixels) -> None:
    together = detector.detect(frames[:4], WIDTH, HEIGHT)
    alone = [detector.detect(frames[n : n + 1], WIDTH, HEIGHT)[0] for n in range(4)]
    assert all(close(one, other) for one, other in zip(together, alone, strict=True))


def test_it_may_be_called_in_all_its_lanes_at_once(detector: Detector, frames: Pixels) -> None:
    lanes = detector.max_parallel
    if detector.prefers_small_calls:
        lanes = max(2, lanes)
    before = torch.get_num_threads()
    found: dict[int, list[list[Detection]]] = {}

    def work(lane: int) -> None:
        detector.prepare_thread(lane, lanes)
        found[lane] = [detector.detect(frames[n : n + 2], WIDTH, HEIGHT)[0] for n in (0, 3, 6)]

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(before)
    expected = [detector.detect(frames[n : n + 1], WIDTH, HEIGHT)[0] for n in (0, 3, 6)]
    assert len(found) == lanes
    for each in found.values():
        assert all(close(one, other) for one, other in zip(each, expected, strict=True))


def test_the_same_again_gives_the_same(detector: Detector, frames: Pixels) -> None:
    first = detector.detect(frames[:2], WIDTH, HEIGHT)
    assert detector.detect(frames[:2], WIDTH, HEIGHT) == first


def test_frames_that_torch_can_not_share(detector: Detector, frames: Pixels) -> None:
    mirrored = frames[:1, :, ::-1]
    mirrored.flags.writeable = False
    expected = detector.detect(np.ascontiguousarray(mirrored), WIDTH, HEIGHT)
    assert detector.detect(mirrored, WIDTH, HEIGHT) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 64, 64, 3), np.bool_),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((1, 0, 64, 3), np.uint8),
        [[0]],
    ],
    ids=["float", "bool", "one frame", "four channels", "no height", "a list"],
)
def test_other_arrays_are_refused(detector: Detector, wrong: Any) -> None:
    with pytest.raises(RejectedTask, match="frames are"):
        detector.detect(wrong, 64, 64)


def test_decode_size_is_a_size(detector: Detector) -> None:
    height, width = detector.decode_size(1080, 1920)
    assert 0 < height <= 1080
    assert 0 < width <= 1920


def test_weights_are_put_in_order_before_they_go_to_the_device(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the kernels that do it would be on a stream that no lane waits for."""
    steps: list[object] = []
    to = torch.nn.Module.to

    def noted(self: torch.nn.Module, *words: Any, **options: Any) -> torch.nn.Module:
        steps.extend([*words, *options.values()])
        return to(self, *words, **options)

    monkeypatch.setattr(torch.nn.Module, "to", noted)
    if isinstance(build(), FactoryDetector):
        assert steps == []
    else:
        assert steps == [torch.channels_last, torch.device("cpu")]


# module:factory


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_such_module_here:build", "can't be imported: ModuleNotFoundError"),
        ("brightest:nothing", "no factory nothing"),
        ("brightest:broken", "brightest:broken failed: OSError: no licence"),
        ("brightest:no_detector", "no detector"),
    ],
)
def test_a_factory_that_is_not_one(model: str, message: str) -> None:
    with pytest.raises(RejectedTask, match=message) as refused:
        build_detector(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", ["brightest:too_few", "brightest:unnamed"])
def test_a_detector_that_breaks_its_promise(model: str, frames: Pixels) -> None:
    with pytest.raises(RejectedTask, match=r"brightest:.* gave"):
        build_detector(model).detect(frames[:2], WIDTH, HEIGHT)


def test_a_factory_gets_what_it_accepts_and_no_more() -> None:
    build_detector("brightest:sized")
    build_detector("brightest:sized", size=(4, 4))
    with pytest.raises(RejectedTask, match="takes no size"):
        build_detector("brightest:build", size=(4, 4))
