"""One call of a detector for frames of several sources, and the memory that a failed call holds."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import RejectedTask

if TYPE_CHECKING:  # an app's module is also imported where tasks are only called, without numpy
    import numpy as np
    from numpy.typing import NDArray


def detect_jointly(
    detector: Detector, parts: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]
) -> list[list[Detection]]:
    """Return the detections of all frames of `parts` in order, from one call of the detector.

    A part is (N, H, W, 3), with the same H and W in all parts; `sizes` has the (width, height) of
    each part's source, in whose pixels its boxes are returned. Raises RejectedTask if the detector
    does not return a list for each frame, since the missing one can't be identified.
    """
    pixels = parts[0]
    if len(parts) > 1:
        import numpy as np

        pixels = np.concatenate(parts)
    same = len(set(sizes)) == 1
    size = sizes[0] if same else (pixels.shape[2], pixels.shape[1])
    found = detector.detect(pixels, *size)
    if len(found) != len(pixels):
        name = type(detector).__name__
        raise RejectedTask(
            f"the detector {name} returned {len(found)} lists of detections"
            f" for {len(pixels)} frames",
            hint="detect returns one list per frame, an empty one where it finds nothing",
        )
    if same:
        return found
    sources = [source for part, source in zip(parts, sizes, strict=True) for _ in part]
    return [
        [_scaled(detection, size, source) for detection in detections]
        for detections, source in zip(found, sources, strict=True)
    ]


def clear_frames(error: BaseException) -> None:
    """Drop the local variables of the calls that `error` and its causes passed through.

    Else the traceback would keep the batch for which a GPU had no memory.
    """
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen:  # causes may form a circle
        traceback.clear_frames(each.__traceback__)
        seen.add(id(each))
        each = each.__cause__ or each.__context__


def _scaled(found: Detection, size: tuple[int, int], source: tuple[int, int]) -> Detection:
    """Scale a box from pixels of `size` (W, H) to pixels of `source` (W, H), cut at its edge."""
    fx, fy = source[0] / size[0], source[1] / size[1]
    x1, y1, x2, y2 = found.box
    box = (
        min(x1 * fx, source[0]),
        min(y1 * fy, source[1]),
        min(x2 * fx, source[0]),
        min(y2 * fy, source[1]),
    )
    return Detection(box, found.label, found.score, found.track_id)
