"""Objects that were found in a frame, and frames that could not be decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Detection(NamedTuple):
    """One object in one frame: a tuple, because a page of predictions holds thousands.

    `box` is (x1, y1, x2, y2) in pixels of the source's frame, `score` is in 0…1.
    """

    box: tuple[float, float, float, float]
    label: str
    score: float
    track_id: int | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames of the source that are missing: `from_frame` to `to_frame`, both included."""

    from_frame: int
    to_frame: int
    reason: str
