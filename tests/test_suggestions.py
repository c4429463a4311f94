from __future__ import annotations

import pytest

from vidan.suggestions import close_names, did_you_mean

MODELS = ["nanodet-g", "torchvision/ssd300_vgg16", "torchvision/fcos_resnet50_fpn"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("nanodet", "nanodet-g"), ("NANODET-G", "nanodet-g"), ("ssd300_vgg", MODELS[1])],
)
def test_a_near_name_is_found(wrong: str, right: str) -> None:
    assert close_names(wrong, MODELS) == [right]
    assert did_you_mean(wrong, MODELS) == f"did you mean {right}?"


def test_the_end_of_a_dotted_name_is_enough() -> None:
    assert close_names("word_count", ["detect", "no_source.word_count"]) == ["no_source.word_count"]


def test_where_none_is_near_some_are_told() -> None:
    assert did_you_mean("x", ["one", "two"]) == "there are one, two."
    assert did_you_mean("x", map(str, range(100, 130))).endswith("110, 111, and 18 more.")
    assert did_you_mean("x", ["one"]) == "there is one."
    assert did_you_mean("x", []) == "there are none."
