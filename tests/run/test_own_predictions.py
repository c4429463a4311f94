"""`run.store`: predictions that it accepts, and predictions that it refuses."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from vidan.domain.detection import Detection
from vidan.errors import RejectedTask
from vidan.run.own_predictions import OwnPredictions

GOOD = Detection((1.0, 2.0, 3.0, 4.0), "car", 0.5)
SHORT: Any = (1.0, 2.0, 3.0)
WORD: Any = "one"


def test_what_is_stored_is_as_it_was_then_in_plain_numbers() -> None:
    own = OwnPredictions([4, 5])
    extra: dict[str, Any] = {"n": 1}
    box: Any = np.array([1, 2, 3, 4], np.float32)
    half, four = cast(Any, np.float32(0.5)), cast(Any, np.int64(4))
    own.store(5, [Detection(box, "car", half)], extra)
    extra["n"] = 2
    own.store(four, None, {"é": None})
    assert own.detections == {5: [GOOD]}
    assert own.extra == {5: '{"n": 1}', 4: '{"é": null}'}
    own.store(5, [], None)
    assert own.detections == {5: []}
    assert own.extra[5] == '{"n": 1}'


@pytest.mark.parametrize("frame", [3, 6, -1, 4.5, "4", None])
def test_another_frame_than_one_of_the_batch_is_refused(frame: Any) -> None:
    with pytest.raises(RejectedTask, match="frame"):
        OwnPredictions([4, 5]).store(frame, [GOOD], None)


def test_without_a_batch_nothing_is_stored() -> None:
    with pytest.raises(RejectedTask, match="none"):
        OwnPredictions().store(0, [GOOD], None)


@pytest.mark.parametrize(
    "wrong",
    [
        GOOD._replace(box=SHORT),
        GOOD._replace(box=(1.0, 2.0, 3.0, float("nan"))),
        GOOD._replace(box=(1.0, 2.0, 3.0, 1e39)),
        GOOD._replace(score=1.5),
        GOOD._replace(score=float("nan")),
        GOOD._replace(label=""),
        GOOD._replace(label="a\x00"),
        GOOD._replace(track_id=WORD),
        "car",
        None,
    ],
    ids=str,
)
def test_what_is_no_detection_is_refused(wrong: Any) -> None:
    with pytest.raises(RejectedTask):
        OwnPredictions([0]).store(0, [wrong], None)


@pytest.mark.parametrize("wrong", [[1], {"x": object()}, {"x": float("nan")}, {"x": "y" * 2**20}])
def test_extra_is_a_small_json_object(wrong: Any) -> None:
    with pytest.raises(RejectedTask, match="extra"):
        OwnPredictions([0]).store(0, None, wrong)
