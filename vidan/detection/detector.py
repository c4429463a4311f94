"""What a detector is: the names that it may find, and a function from frames to detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vidan.domain.detection import Detection

if TYPE_CHECKING:  # programs without the extra `worker` import this module, too
    import numpy as np
    from numpy.typing import NDArray


class Detector(Protocol):
    """Finds objects in frames. A subclass needs only `labels` and `detect`; the rest has defaults.

    All implementations pass the same contract tests.
    """

    labels: tuple[str, ...]
    """The names that its detections may carry."""
    batch_size: int = 1
    """The number of frames that one call of `detect` handles best."""
    max_parallel: int = 1
    """The largest number of threads in `detect` at the same time that still adds speed."""
    prefers_small_calls: bool = False
    """Whether two small calls in parallel are faster than one large call, as on a CPU's cores."""
    accepts_mixed_sizes: bool = False
    """Whether frames of sources that differ in size may share a call.

    True only if detections depend on the frames alone: then the call gets the frames' own size,
    and the caller scales the boxes to each source.
    """

    def prepare_thread(self, lane: int, lanes: int) -> None:
        """Prepare the calling thread, number `lane` of `lanes`, for calls of `detect`."""
        del lane, lanes  # by default there is nothing to prepare

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        """Return the detections of each frame, the best first.

        `pixels` is (N, H, W, 3) uint8 RGB; boxes are in pixels of a `width` x `height` source,
        whatever H and W are. The detections of a frame do not depend on the other frames. Raises
        RejectedTask if `pixels` has another shape or type.
        """
        ...

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (H, W) to which the decoder may scale frames of a `height` x `width` source.

        Any thread may call it, also while other threads are in `detect`.
        """
        return height, width
