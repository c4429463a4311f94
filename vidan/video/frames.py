"""What a source gives: batches of frames, exactly numbered, from files and live streams alike.

`vidan.video.opening` opens a source. This module is light: it loads neither numpy nor a decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vidan.domain.detection import Gap

if TYPE_CHECKING:  # numpy belongs to the extra `worker`; sources are checked without it
    import numpy as np
    from numpy.typing import NDArray

Size = tuple[int, int] | Callable[[int, int], tuple[int, int] | None]
"""The (height, width) to which frames are scaled, or a function that returns it for the (height,
width) of the source. None: the source's own size.
"""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """N frames in display order, and the gaps found since the previous batch. N may be 0."""

    indices: NDArray[np.int64]
    """(N,) frame numbers, ascending."""
    times: NDArray[np.int64]
    """(N,) milliseconds since the first frame of the source, ascending: frame n has the n-th
    smallest timestamp of the source, which is its own unless the container keeps timestamps in the
    order of decoding. Where two recordings are joined, the second continues one frame after the
    first.
    """
    pixels: NDArray[np.uint8]
    """(N, H, W, 3) RGB, with the display rotation applied."""
    width: int
    """Width of the source's displayed picture; `pixels` may be smaller, see `scale`."""
    height: int
    """Height of the source's displayed picture."""
    gaps: tuple[Gap, ...]
    """Frames that exist in the source but could not be decoded."""
    next_frame: int
    """The checkpoint once this batch is stored: the number of the next frame."""
    next_pts: int | None
    """The timestamp to which a resume seeks, stored with the checkpoint; None: a resume finds its
    place without it. For a live source, the Unix time of frame 0 in milliseconds, so that the times
    of frames continue after an interruption.
    """
    next_restart: tuple[int, int] | None = None
    """Where a resume begins to decode if it can't seek: the ordinal of a key frame's packet in the
    source, and the number of that frame. None: at the first packet.
    """

    @property
    def time_ms(self) -> NDArray[np.int64]:
        """The same as `times`, under the name that stored predictions have."""
        return self.times

    @property
    def scale(self) -> tuple[float, float]:
        """The factors (x, y) that turn a box in the source's pixels into one in `pixels`."""
        return self.pixels.shape[2] / self.width, self.pixels.shape[1] / self.height


class FrameSource(Protocol):
    """An open source. `batches` can be iterated once."""

    width: int
    height: int
    fps: float | None
    """Frames per second according to the container, before sampling."""
    frames_total: int | None
    """How many frames the whole run will store, after sampling, if nothing is damaged. None:
    unknown.
    """
    live: bool
    """Whether the source has no end: a camera, a stream, a pipe."""

    @property
    def info(self) -> Mapping[str, Any]:
        """What is known about the video, as JSON: see `Scenario.source_info`."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was noticed about the source so far, such as that the file grows."""
        ...

    def batches(self, size: int) -> Iterator[FrameBatch]:
        """Yield batches of at most `size` frames, each decoded when it is asked for.

        Raises RejectedTask, or VidanError if a retry may help.
        """
        ...

    def close(self) -> None:
        """End the iteration and release the decoder. May be called twice, and from any thread."""
        ...
