"""The catalogue names what exists and refuses the rest, without torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vidan.detection import catalogue
from vidan.errors import InputRejected, NotFoundError


def test_nothing_heavy_is_imported() -> None:
    script = """if True:
        import sys
        from vidan.detection import catalogue
        catalogue.check_model("nanodet-g", labels=["person"], size=(416, 544), min_score=0.5)
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
        """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "torchvision", "numpy", "av", "safetensors", "pydantic"}
    third_party = loaded - set(sys.stdlib_module_names) - {"vidan", "__main__"}
    assert not {name for name in third_party if not name.startswith("_")}


def test_the_weights_are_the_ones_described() -> None:
    digest = hashlib.sha256(catalogue.NANODET_WEIGHTS.read_bytes()).hexdigest()
    assert digest == catalogue.NANODET_SHA256
    listed = catalogue.NANODET_WEIGHTS.with_suffix(".safetensors.sha256").read_text().split()
    assert listed == [digest, catalogue.NANODET_WEIGHTS.name]


def test_the_sample_is_in_the_package() -> None:
    sample = catalogue.sample_video()
    assert sample.is_relative_to(Path(catalogue.__file__).parents[1])
    assert sample.read_bytes()[4:8] == b"ftyp"


def test_coco_labels_and_ids_are_torchvisions() -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    assert len(catalogue.COCO_LABELS) == len(catalogue.COCO_IDS) == 80
    named = zip(catalogue.COCO_IDS, catalogue.COCO_LABELS, strict=True)
    assert [_COCO_CATEGORIES[number] for number, _ in named] == list(catalogue.COCO_LABELS)


def test_models_are_found_by_name() -> None:
    models = catalogue.models()
    assert models[0].name == catalogue.DEFAULT_MODEL
    assert len({model.name for model in models}) == len(models)
    assert [catalogue.find_model(model.name) for model in models] == list(models)
    with pytest.raises(NotFoundError, match="no such model: yolo"):
        catalogue.find_model("yolo")


@pytest.mark.parametrize(
    ("wrong", "first"),
    [
        ("nanodet", "nanodet-g"),
        ("NanoDet-G", "nanodet-g"),
        ("torchvision/ssd300", "torchvision/ssd300_vgg16"),
        ("retinanet_resnet50", "torchvision/retinanet_resnet50_fpn"),
    ],
)
def test_an_unknown_model_names_the_closest_first(wrong: str, first: str) -> None:
    with pytest.raises(InputRejected, match=f"no such model: {wrong}") as refused:
        catalogue.check_model(wrong)
    hint = refused.value.hint or ""
    assert hint.startswith(f"did you mean {first}")
    assert "vidan models list" in hint
    assert refused.value.exit_code == 10


def test_an_unknown_label_names_the_closest_first() -> None:
    with pytest.raises(InputRejected, match="no such label: persons") as refused:
        catalogue.check_model("nanodet-g", labels=["car", "persons"])
    assert (refused.value.hint or "").startswith("did you mean person?")
    with pytest.raises(InputRejected) as refused:
        catalogue.check_model("nanodet-g", labels=["qqq"])
    assert (refused.value.hint or "").startswith("there are person, bicycle")


@pytest.mark.parametrize("name", ["own:build", "pkg.mod:Build_2", "ünicode.módule:fábrica"])
def test_a_factory_is_known_by_its_shape(name: str) -> None:
    catalogue.check_model(name, labels=["helmet"], size=(7, 9))


@pytest.mark.parametrize(
    "name", ["own:", ":build", "a b:c", "own:build:more", "1x:y", "a..b:c", ""]
)
def test_what_has_not_the_shape_is_an_unknown_model(name: str) -> None:
    with pytest.raises(InputRejected, match="no such model"):
        catalogue.check_model(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (416, 540)}, "can't take 416x540"),
        ({"size": (0, 32)}, "not a size"),
        ({"size": (32, 8192)}, "can't take 32x8192"),
        ({"min_score": 1.1}, "min_score is 1.1"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"weights": "/no/such/file"}, "no such weights file: /no/such/file"),
        ({"weights": "/"}, "the weights are not a file"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputRejected, match=message) as refused:
        catalogue.check_model("nanodet-g", **options)
    assert refused.value.hint


def test_a_size_is_mended() -> None:
    with pytest.raises(InputRejected) as refused:
        catalogue.check_model("nanodet-g", size=(416, 540))
    assert "416x544" in (refused.value.hint or "")


def write_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header = json.dumps({name: {"shape": shape} for name, shape in shapes.items()}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"text", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a safetensors file"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "weights"
    file.write_bytes(content)
    with pytest.raises(InputRejected, match=message):
        catalogue.check_model("nanodet-g", weights=str(file))
    message = "empty" if not content else "not a file of weights"
    with pytest.raises(InputRejected, match=message):
        catalogue.check_model("torchvision/ssd300_vgg16", weights=str(file))


def test_weights_of_another_model_are_refused_without_torch(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "other", {"a": [1]})
    with pytest.raises(InputRejected, match="do not fit nanodet-g"):
        catalogue.check_model("nanodet-g", weights=str(tmp_path / "other"))
    catalogue.check_model("nanodet-g", weights=str(catalogue.NANODET_WEIGHTS))


def test_other_weights_may_have_unnamed_classes(tmp_path: Path) -> None:
    file = tmp_path / "own.pt"
    file.write_bytes(b"PK\x03\x04")
    name = "torchvision/ssd300_vgg16"
    catalogue.check_model(name, weights=str(file), labels=["class_1", "car"])
    for weights, label in ((str(file), "helmet"), (None, "class_1")):
        with pytest.raises(InputRejected, match=f"no such label: {label}"):
            catalogue.check_model(name, weights=weights, labels=[label])


def test_parse_size() -> None:
    assert catalogue.parse_size("416x544") == (416, 544)
    for wrong in ("416", "416X544", "0x32", "-1x32", "416x544x3", "416 x 544", "", "٤x٤"):
        with pytest.raises(InputRejected, match="not a size"):
            catalogue.parse_size(wrong)


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(catalogue.DETECT_SCHEMA)
    return jsonschema.Draft202012Validator(catalogue.DETECT_SCHEMA)


def test_the_schema_accepts_what_detect_takes() -> None:
    validator().validate({})
    validator().validate(
        {
            "model": "nanodet-g",
            "weights": "/w",
            "min_score": 0,
            "labels": ["person"],
            "size": "416x544",
            "every": 1,
            "fps": 0.5,
            "decoder": "decord",
        }
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_score": 1.01},
        {"min_score": -0.1},
        {"min_score": "0.5"},
        {"labels": []},
        {"labels": "person"},
        {"labels": ["person", {"name": "car"}]},
        {"labels": ["person"] * (catalogue.MAX_LABELS + 1)},
        {"size": "416"},
        {"size": "0x32"},
        {"every": 0},
        {"every": 1.5},
        {"fps": 0},
        {"decoder": "ffmpeg"},
        {"model": ""},
        {"modle": "nanodet-g"},
    ],
    ids=str,
)
def test_the_schema_refuses_the_rest(wrong: dict[str, Any]) -> None:
    assert not validator().is_valid(wrong)
