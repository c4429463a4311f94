"""Turns decoded pictures into RGB arrays, rotated as they are displayed."""

from __future__ import annotations

import errno
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidan.video.optional import look_up

if TYPE_CHECKING:
    from av import VideoFrame

MAX_SIDE_DATA_TYPE = 64
"""Above all numbers of side data that FFmpeg uses (it had 32 in version 8.1)."""

REFUSED_COLORS = {
    8: "YCgCo",
    11: "YDzDx",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""Colour matrices (ITU-T H.273, table 4) that FFmpeg's scaler lacks; it has none that is near."""

BT709, UNSPECIFIED, BT2020, BT2020_CONSTANT, DERIVED, DERIVED_CONSTANT = 1, 2, 9, 10, 12, 13
"""Numbers of colour matrices; the primaries BT.709 and BT.2020 have the same numbers."""

LACKED = frozenset({BT2020_CONSTANT, DERIVED, DERIVED_CONSTANT})
"""Colour matrices that FFmpeg's scaler lacks, but has one near to each.

The scaler lacks reserved numbers as well: such a label says nothing, and UNSPECIFIED replaces it.
"""


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
        return cls(display_matrix(frame))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Convert a stored (height, width) to the displayed one, or back."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of the stored (H, W, 3) as it is displayed."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def display_matrix(frame: VideoFrame) -> bytes | None:
    """Return the display matrix of a decoded frame, None if it has none.

    PyAV can't list the side data of a frame if its enum lacks one of them, such as EXIF. Then
    FFmpeg removes these first. `VideoFrame.rotation` would not do: it does not tell mirrored
    pictures.
    """

    def listed(one: VideoFrame) -> bytes | None:
        matrix = one.side_data.get("DISPLAYMATRIX")
        return bytes(matrix) if matrix is not None else None  # type: ignore[call-overload]

    try:
        return listed(frame)
    except Exception:
        return look_up("the display matrix", lambda: listed(_with_known_data(frame)), None)


def _with_known_data(frame: VideoFrame) -> VideoFrame:
    """Return the frame without the side data that PyAV's enum lacks."""
    import av
    from av.sidedata.sidedata import Type

    known: set[int] = {int(one.value) for one in Type}  # type: ignore[call-overload]
    graph = av.filter.Graph()
    end = graph.add_buffer(template=None, width=frame.width, height=frame.height,
                           format=frame.format, time_base=frame.time_base)  # fmt: skip
    first = end
    for number in range(MAX_SIDE_DATA_TYPE):
        if number in known:
            continue
        try:
            step = graph.add("sidedata", f"mode=delete:type={number}")
        except (ValueError, OSError):
            break  # FFmpeg itself has no more types
        end.link_to(step)
        end = step
    end.link_to(graph.add("buffersink"))
    graph.configure()
    first.push(frame)
    known_frame = graph.pull()
    assert isinstance(known_frame, av.VideoFrame)
    return known_frame


def _near_matrix(matrix: int, primaries: int) -> int:
    """Return a colour matrix that the scaler has, near to one of LACKED."""
    if matrix == BT2020_CONSTANT:
        return BT2020
    return BT2020 if primaries == BT2020 else BT709  # DERIVED: from the primaries


class Converter:
    """Converts decoded frames of any size and pixel format to RGB of one size.

    `size` is the displayed (height, width). With `deinterlace`, an interlaced picture is given by
    its top field alone, whose lines are scaled to the height of the picture: that needs no other
    picture, so a resumed run gives the same pixels.
    """

    def __init__(self, size: tuple[int, int], turn: Turn, *, deinterlace: bool = False) -> None:
        from av.video.reformatter import VideoReformatter

        self.size = size
        self.turn = turn
        self._deinterlace = deinterlace
        self._top: _TopField | None = None
        self._reformatter = VideoReformatter()  # one for all frames, since it caches its tables

    def into(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write the picture into `out`, (H, W, 3) uint8 RGB."""
        height, width = self.turn.size(*self.size)
        if self._deinterlace and frame.interlaced_frame:
            frame = self._top_field(frame)
        if frame.colorspace in LACKED:
            frame.colorspace = _near_matrix(frame.colorspace, frame.color_primaries)
        try:
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            frame.colorspace = UNSPECIFIED
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height]  # type: ignore[call-overload]
        np.copyto(out, self.turn.apply(rows[:, : width * 3].reshape(height, width, 3)))

    def _top_field(self, frame: VideoFrame) -> VideoFrame:
        if self._top is None or not self._top.takes(frame):
            self._top = _TopField(frame)
        return self._top.of(frame)


class _TopField:
    """Takes the top field out of interlaced pictures of one size and pixel format."""

    def __init__(self, frame: VideoFrame) -> None:
        import av

        self._kind = _kind(frame)
        self._graph = av.filter.Graph()
        self._first = self._graph.add_buffer(
            template=None, width=frame.width, height=frame.height,
            format=frame.format, time_base=Fraction(1, 1000),
        )  # fmt: skip
        field = self._graph.add("field", "type=top")
        self._first.link_to(field)
        field.link_to(self._graph.add("buffersink"))
        self._graph.configure()

    def takes(self, frame: VideoFrame) -> bool:
        """Whether a picture has the size and the pixel format of this filter."""
        return _kind(frame) == self._kind

    def of(self, frame: VideoFrame) -> VideoFrame:
        """Return the top field of a picture, half as high."""
        import av

        self._first.push(frame)
        field = self._graph.pull()
        assert isinstance(field, av.VideoFrame)
        return field


def _kind(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
