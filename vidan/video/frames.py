"""Frames of a video, from files and live streams, with exact numbers and exact resumption.

`open_source` gives a FrameSource: PyAV's by default, decord's for the containers that it decodes
exactly. The decoders are imported when a source is opened, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vidan.domain.detection import Gap

if TYPE_CHECKING:  # a source is checked without the extra `worker`, which has numpy
    import numpy as np
    from numpy.typing import NDArray


Size = tuple[int, int] | Callable[[int, int], tuple[int, int] | None]
"""(height, width) of the pixels wanted; or what gives it for those of the source, None
for the source's own.
"""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Some frames in the order of showing, and what was found damaged since the batch before. N may
    be 0.
    """

    indices: NDArray[np.int64]
    """(N,) frame numbers, rising."""
    times: NDArray[np.int64]
    """(N,) milliseconds since the first frame of the source, rising over a splice too: it goes on
    one frame later.
    """
    pixels: NDArray[np.uint8]
    """(N, H, W, 3) RGB, as shown (display rotation applied)."""
    width: int
    """Of the source's picture as shown; `pixels` may be smaller if the source was opened with a
    size: see `scale`.
    """
    height: int
    gaps: tuple[Gap, ...]
    """Frames that exist in the source and could not be had, both ends included."""
    next_frame: int
    """The checkpoint once this batch is stored."""
    next_pts: int | None
    """Kept beside the checkpoint, so that a resume seeks; None: it finds its place without. Of a
    live source: Unix time of frame 0 in milliseconds, so that times go on over an interruption.
    """

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y): a box in the source's pixels times this is where it lies in `pixels`."""
        return self.pixels.shape[2] / self.width, self.pixels.shape[1] / self.height


class FrameSource(Protocol):
    """A source that has been opened. `batches` can be iterated once."""

    width: int
    height: int
    fps: float | None
    """Frames a second as the container says, before sampling."""
    frames_total: int | None
    """Frames that will be stored in the whole run, after sampling, if nothing is damaged. None:
    unknown.
    """
    live: bool

    def batches(self, size: int) -> Iterator[FrameBatch]:
        """At most `size` frames each, decoded when asked for. Raises RejectedTask, VidanError (a
        retry may help).
        """
        ...

    def close(self) -> None:
        """End the iteration, give everything back. May be called twice, and from another thread."""
        ...
