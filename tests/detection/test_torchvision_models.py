"""torchvision's models: which there are, their weights, their limits."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torchvision.models import detection as torchvision_detection
from torchvision.models import list_models

from tests.support.detectors import HEIGHT, WIDTH, Pixels, save_random
from vidan.detection import catalogue
from vidan.detection.building import build_detector
from vidan.detection.device import Place
from vidan.detection.torchvision_models import TorchvisionDetector
from vidan.errors import RejectedTask, VidanError


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
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(VidanError, match="could not download") as failed:
        build_detector("torchvision/ssdlite320_mobilenet_v3_large")
    assert not isinstance(failed.value, RejectedTask), "a retry may mend it"
    assert "weights=FILE" in (failed.value.hint or "")
