"""Turns decoded pictures into RGB arrays, rotated as they are displayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame


class Turn:
    """The rotation and mirroring of a display matrix, in multiples of 90 degrees.

    Source of the matrix: ISO/IEC 14496-12, track header; FFmpeg's libavutil/display.h (nine 32-bit
    numbers, row vectors times matrix, y down).
    """

    def __init__(self, matrix: bytes | None = None) -> None:
        a, b, c, d = 1, 0, 0, 1
        if matrix is not None and len(matrix) >= 36:
            cells = np.frombuffer(matrix, np.int32, 9)
            a, b, c, d = (int(cells[i]) for i in (0, 1, 3, 4))
        self.transposed = abs(b) > abs(a)
        # (x, y) is mapped to (a·x + c·y, b·x + d·y): a negative factor mirrors the resulting axis
        across, down = (c, b) if self.transposed else (a, d)
        self.mirrored = across < 0
        self.upside_down = down < 0

    @property
    def turns(self) -> bool:
        """Whether a picture is displayed differently from how it is stored."""
        return self.transposed or self.mirrored or self.upside_down

    @classmethod
    def of(cls, frame: VideoFrame) -> Turn:
        """Return the turn in the display matrix of a decoded frame."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return cls(bytes(matrix) if matrix is not None else None)  # type: ignore[call-overload]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Convert a stored (height, width) to the displayed one, or back."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of the stored (H, W, 3) as it is displayed."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


class Converter:
    """Converts decoded frames of any size and pixel format to RGB of one size.

    `size` is the displayed (height, width).
    """

    def __init__(self, size: tuple[int, int], turn: Turn) -> None:
        from av.video.reformatter import VideoReformatter

        self.size = size
        self.turn = turn
        self._reformatter = VideoReformatter()  # one for all frames, since it caches its tables

    def into(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write the picture into `out`, (H, W, 3) uint8 RGB."""
        height, width = self.turn.size(*self.size)
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height]  # type: ignore[call-overload]
        np.copyto(out, self.turn.apply(rows[:, : width * 3].reshape(height, width, 3)))
