"""Predictions that a task stores itself, for frames of the batch that it works on: `run.store`."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidan.domain.detection import Detection
from vidan.errors import RejectedTask
from vidan.protocol import storable

MAX_EXTRA_BYTES = 2**20
"""Most bytes of one frame's `extra`: a commit holds those of many frames."""
MAX_EDGE = 3e38
"""Bound of the edges of boxes, in pixels: boxes are stored as float4."""


@dataclass(slots=True)
class OwnPredictions:
    """The frames of one batch, and the task's own predictions for them so far."""

    frames: Sequence[int] = ()
    detections: dict[int, list[Detection]] = field(default_factory=dict)
    extra: dict[int, str] = field(default_factory=dict)

    def store(
        self,
        frame: int,
        detections: Iterable[Detection] | None,
        extra: Mapping[str, Any] | None,
    ) -> None:
        """Keep a copy for the commit of the batch. See `Run.store`."""
        try:
            number = operator.index(frame)
        except TypeError:
            raise RejectedTask(f"frame {frame!r} is not a frame's number") from None
        if number not in self.frames:
            worked_on = f"{self.frames[0]}…{self.frames[-1]}" if self.frames else "none"
            raise RejectedTask(
                f"frame {number} is not in the batch that is worked on: {worked_on}",
                hint="store a frame before the loop asks for the next batch",
            )
        if detections is not None:
            self.detections[number] = [_plain(one) for one in detections]
        if extra is not None:
            self.extra[number] = _text(extra)


def _plain(given: Detection) -> Detection:
    """Return the detection in Python's own numbers. Raises RejectedTask if it can't be stored."""
    try:
        box, label, score, track_id = Detection(*given)
        x1, y1, x2, y2 = map(float, box)
        found = Detection(
            (x1, y1, x2, y2),
            label,
            float(score),
            None if track_id is None else operator.index(track_id),
        )
    except (TypeError, ValueError):
        raise RejectedTask(
            f"not a detection: {storable.line(repr(given))[:200]}",
            hint="vidan.Detection(box=(x1, y1, x2, y2), label='car', score=0.9)",
        ) from None
    if not (isinstance(label, str) and label and storable.is_text(label)):
        raise RejectedTask(f"a detection's label is text, not {label!r}")
    if not all(math.isfinite(edge) and abs(edge) < MAX_EDGE for edge in found.box):
        raise RejectedTask(f"a detection's box is (x1, y1, x2, y2) in pixels, not {found.box}")
    if not 0 <= found.score <= 1:
        raise RejectedTask(f"a detection's score is in 0…1, not {found.score}")
    return found


def _text(extra: Mapping[str, Any]) -> str:
    if not isinstance(extra, Mapping):
        raise RejectedTask(f"extra has to be a dict, not {type(extra).__name__}")
    try:
        text = storable.json_text(dict(extra))
    except ValueError as error:
        raise RejectedTask(f"extra has to be JSON: {error}") from None
    if len(text.encode()) > MAX_EXTRA_BYTES:
        raise RejectedTask(f"extra is larger than {MAX_EXTRA_BYTES // 2**20} MiB for one frame")
    return text
