"""What a detector is, and how one is built by its model's name.

Importing this module is light; building a detector loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vidan.domain.detection import Detection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Detector(Protocol):
    """Finds objects in frames. The three implementations pass one contract suite."""

    labels: tuple[str, ...]
    """The names that its detections may carry."""
    batch_size: int
    """How many frames it likes to get at once."""
    lanes: int
    """How many threads may be in `detect` at once with a gain; 1: it takes one call at a time."""
    spread: bool
    """Whether two small calls side by side are better than a large one, as on a CPU's cores."""
    mixes: bool
    """Whether sources of different sizes may share a call, as one of the size of their frames:
    what is found depends on the frames alone, and boxes scale."""

    def share(self, lane: int, lanes: int) -> None:
        """Prepare this thread for calls of `detect`, beside those of the other `lanes`."""
        ...

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        """The detections of each frame, the best first.

        `pixels` is (N, H, W, 3) uint8 RGB; boxes come in pixels of a `width` x `height` source,
        whatever H and W are. What is found in a frame does not depend on the others. Raises
        RejectedTask if `pixels` is something else.
        """
        ...

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) to which frames of a `height` x `width` source may be scaled beforehand.

        Called by any thread, also while others are inside `detect`.
        """
        ...
