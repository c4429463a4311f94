"""What every detector promises, held by each of the three kinds; then what is each one's own."""

from __future__ import annotations

import io
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, list_models
from torchvision.ops import batched_nms

from vidan.detection import catalogue
from vidan.detection.arrays import nms
from vidan.detection.building import build_detector
from vidan.detection.custom import FactoryDetector
from vidan.detection.detector import Detector
from vidan.detection.device import Place
from vidan.detection.nanodet import NanoDet, input_size
from vidan.detection.ring import HostCopies, Ring
from vidan.detection.torchvision_models import TorchvisionDetector
from vidan.domain.detection import Detection
from vidan.errors import DeviceLost, InputRejected, RejectedTask, VidanError

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 768, 576
REFERENCE = Path(__file__).parent.parent / "reference" / "nanodet_reference.json"


def save_random(name: str, path: Path, classes: int = 91) -> Path:
    """A state dict as a training of torchvision's would leave it, but for the training."""
    torch.manual_seed(7)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    for module in model.modules():  # settled at once: else all places of a picture score the same
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


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    """The tests' own detector is found in the current directory, as a user's would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        patch.setattr(sys, "path", [p for p in sys.path if Path(p) != Path(__file__).parent])
        yield


@pytest.fixture(scope="module")
def ssdlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return save_random("ssdlite320_mobilenet_v3_large", folder / "ssdlite.pt")


@pytest.fixture(scope="module")
def frames() -> Pixels:
    """(10, 576, 768, 3): every 20th frame of the sample."""
    with av.open(str(catalogue.sample_video())) as container:
        pictures = [
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(video=0))
            if number % 20 == 0
        ]
    return np.stack(pictures).astype(np.uint8)


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


# nanodet-g


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


@pytest.fixture
def like_a_gpu() -> Place:
    """The way that frames take to a GPU, on the CPU."""
    return Place(
        torch.device("cpu"), max_parallel=2, prefers_small_calls=False, send=Ring(HostCopies()).send
    )


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


def test_nanodet_in_bfloat16_finds_nearly_the_same(frames: Pixels, like_a_gpu: Place) -> None:
    """What a GPU computes, on the CPU: the good ones of the reference, at their places."""
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
    """A GPU always takes the same number of places: what is kept in the end is the same."""
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


@pytest.mark.parametrize("number", [1, 4])
def test_torchvision_takes_frames_from_a_ring(
    ssdlite: Path, frames: Pixels, number: int, like_a_gpu: Place
) -> None:
    standard: dict[str, Any] = {
        "weights": str(ssdlite), "min_score": 0.1, "labels": None, "size": None
    }  # fmt: skip
    name = "torchvision/ssdlite320_mobilenet_v3_large"
    ringed = TorchvisionDetector(name, place=like_a_gpu, **standard)
    plain = TorchvisionDetector(name, place=Place.of("cpu"), **standard)
    found = ringed.detect(frames[:number], WIDTH, HEIGHT)
    assert found == plain.detect(frames[:number], WIDTH, HEIGHT)
    assert len(found) == number


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


# devices


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:-1", "cpu:0"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises((InputRejected, DeviceLost), match=r"no such (GPU|device): "):
        build_detector(device=device)


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        build_detector(threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# torchvision


def test_the_catalogue_has_all_of_torchvisions_detectors() -> None:
    theirs = {
        f"torchvision/{name}"
        for name in list_models(module=torchvision_detection)
        if not name.startswith(("maskrcnn", "keypointrcnn"))  # they find more than boxes
    }
    assert {model.name for model in catalogue.models()[1:]} == theirs


def test_a_two_stage_model_with_other_classes(tmp_path: Path, frames: Pixels) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    file = save_random(name, tmp_path / "three.pt", classes=4)
    detector = build_detector(
        f"torchvision/{name}", weights=str(file), min_score=0.0, labels=["class_3"], threads=1
    )
    assert detector.labels == ("class_3",)
    assert detector.decode_size(HEIGHT, WIDTH) == (320, 427)
    [detections] = detector.detect(frames[:1], WIDTH, HEIGHT)
    assert {d.label for d in detections} == {"class_3"}
    assert max(d.box[2] for d in detections) > 427


def test_a_checkpoint_and_safetensors_load_too(tmp_path: Path, ssdlite: Path) -> None:
    from safetensors.torch import save_file

    state = torch.load(ssdlite, weights_only=True)
    torch.save({"model": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    save_file(state, tmp_path / "state.safetensors")
    for file in ("checkpoint.pth", "state.safetensors"):
        build_detector(
            "torchvision/ssdlite320_mobilenet_v3_large", weights=str(tmp_path / file), threads=1
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [("ssd300_vgg16", "do not fit"), ("fcos_resnet50_fpn", "do not fit")],
)
def test_weights_of_another_model(ssdlite: Path, name: str, message: str) -> None:
    with pytest.raises(RejectedTask, match=message):
        build_detector(f"torchvision/{name}", weights=str(ssdlite))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_weights_are_refused_whatever_reading_them_raises(tmp_path: Path) -> None:
    whole, file = io.BytesIO(), tmp_path / "damaged.pt"
    old_format: Any = False  # one pickle after the other, without a checksum
    torch.save({"a": torch.zeros(3)}, whole, _use_new_zipfile_serialization=old_format)
    random = Random(1)
    refused = 0
    for _ in range(300):
        content = bytearray(whole.getvalue())
        for _ in range(random.randint(1, 4)):
            content[random.randrange(len(content))] = random.randrange(256)
        file.write_bytes(content)
        try:
            build_detector("torchvision/ssd300_vgg16", weights=str(file))
        except RejectedTask as error:
            refused += "not a file of weights" in str(error)
    assert refused > 100


def test_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    torch.save({"a": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(RejectedTask, match="not a file of weights"):
        build_detector("torchvision/ssd300_vgg16", weights=str(tmp_path / "harmful.pt"))
    assert not (tmp_path / "touched").exists()


def test_a_size_that_the_network_can_not_take(tmp_path: Path) -> None:
    file = save_random("ssd300_vgg16", tmp_path / "ssd.pt", classes=2)
    with pytest.raises(RejectedTask, match="can't take 64x64"):
        build_detector("torchvision/ssd300_vgg16", weights=str(file), size=(64, 64))


def test_a_failing_download_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(VidanError, match="could not download") as failed:
        build_detector("torchvision/ssdlite320_mobilenet_v3_large")
    assert not isinstance(failed.value, RejectedTask), "a retry may mend it"
    assert "weights=FILE" in (failed.value.hint or "")


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
