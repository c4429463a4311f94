"""Draws detections on their frames: an annotated video, or one picture.

Importing this module loads PyAV and Pillow: import it only where something is drawn.
"""

from __future__ import annotations

import colorsys
import errno
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vidan.domain.detection import Detection
from vidan.errors import MissingExtra, VidanError

try:
    import av
    import av.error
    import av.video.stream
    from PIL import Image, ImageDraw, ImageFont
except ModuleNotFoundError as error:
    raise MissingExtra(f"drawing needs {error.name}", hint="pip install 'vidan[worker]'") from error

if TYPE_CHECKING:
    from vidan.video.frames import FrameSource

_MILLISECONDS = Fraction(1, 1000)
_BATCH = 8
"""Frames read from the source at once."""
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]


class AnnotatedVideo:
    """An MP4 with boxes drawn on its frames: H.264 if PyAV has libx264, else MPEG-4.

    `width` and `height` are those of the source, in whose pixels the boxes are; the written frames
    may be smaller. Frames keep their times, evenly spaced or not, and pixels keep their shape:
    `aspect` is the width of a displayed pixel divided by its height. The video has a temporary name
    beside `path` until the `with` block ends without an error; an interrupted one is removed.
    Raises VidanError if the file can't be written.
    """

    def __init__(self, path: Path, width: int, height: int, aspect: Fraction | None = None) -> None:
        self.path = path
        self.aspect = aspect
        self.frames = 0
        self._part = path.with_name(f".{path.name}.part")
        self._size = (width, height)
        self._time = -1
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.stream.VideoStream | None = None

    def __enter__(self) -> Self:
        try:
            self._container = av.open(str(self._part), "w", format="mp4")
        except (OSError, av.error.FFmpegError) as error:
            raise _unwritable(self.path, error) from error
        return self

    def write(
        self, pixels: NDArray[np.uint8], time_ms: int, detections: Sequence[Detection]
    ) -> None:
        """Add a frame: `pixels` (H, W, 3) RGB, displayed at `time_ms`, after the previous frame."""
        picture = draw(pixels, detections, *self._size)
        frame = av.VideoFrame.from_ndarray(_even(np.asarray(picture)), format="rgb24")
        self._time = max(time_ms, self._time + 1)
        frame.pts, frame.time_base = self._time, _MILLISECONDS
        try:
            if self._stream is None:
                self._stream = self._open_stream(frame.width, frame.height)
            self._mux(frame)
        except (OSError, av.error.FFmpegError) as error:
            raise _unwritable(self.path, error) from error
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._mux(None)
            self._close()
            if kind is None and self.frames:
                self._part.replace(self.path)
        except (OSError, av.error.FFmpegError) as failure:
            raise _unwritable(self.path, failure) from failure
        finally:
            self._part.unlink(missing_ok=True)

    def _open_stream(self, width: int, height: int) -> av.video.stream.VideoStream:
        assert self._container is not None, "use AnnotatedVideo in a with statement"
        if "libx264" in av.codecs_available:
            stream = self._container.add_stream("libx264", options={"preset": "veryfast"})
        else:
            stream = self._container.add_stream("mpeg4", options={"q:v": "4"})
        assert isinstance(stream, av.video.stream.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = _MILLISECONDS
        if self.aspect is not None:
            stream.codec_context.sample_aspect_ratio = self.aspect
        return stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        assert self._container is not None and self._stream is not None
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def render(
    source: FrameSource,
    predictions: Iterable[tuple[int, list[Detection]]],
    path: Path,
    *,
    only_predicted: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write the frames of `source` with their detections to `path`, an MP4.

    `predictions` yields (frame number, detections) in ascending order. A frame without a prediction
    is written without boxes, or left out with `only_predicted`. `on_progress` is called with the
    number of frames written so far. Returns the number of frames written. Raises VidanError if the
    file can't be written or would be empty.
    """
    wanted = _Sorted(predictions)
    with AnnotatedVideo(path, source.width, source.height, _aspect(source)) as video:
        for batch in source.batches(_BATCH):
            for index, time_ms, pixels in zip(
                batch.indices.tolist(), batch.times.tolist(), batch.pixels, strict=True
            ):
                detections = wanted.at(index)
                if detections is not None or not only_predicted:
                    video.write(pixels, time_ms, detections or [])
            if on_progress is not None:
                on_progress(video.frames)
    if video.frames == 0:
        raise VidanError(
            f"no frame to write to {path}", hint="has the scenario stored predictions?"
        )
    return video.frames


def _aspect(source: FrameSource) -> Fraction | None:
    width, _, height = (source.info.get("sample_aspect_ratio") or "").partition(":")
    return Fraction(int(width), int(height)) if height else None


class _Sorted:
    """Looks up ascending keys in ascending pairs, holding one pair at a time."""

    def __init__(self, pairs: Iterable[tuple[int, list[Detection]]]) -> None:
        self._pairs: Iterator[tuple[int, list[Detection]]] = iter(pairs)
        self._next = next(self._pairs, None)

    def at(self, key: int) -> list[Detection] | None:
        while self._next is not None and self._next[0] < key:
            self._next = next(self._pairs, None)
        return self._next[1] if self._next is not None and self._next[0] == key else None


def snapshot(
    pixels: NDArray[np.uint8],
    detections: Sequence[Detection],
    path: Path,
    *,
    width: int | None = None,
    height: int | None = None,
) -> None:
    """Save one frame, (H, W, 3) RGB, with its detections as a PNG.

    `width` and `height` are those of the source if the frame was scaled. Raises VidanError if the
    file can't be written.
    """
    picture = draw(pixels, detections, width or pixels.shape[1], height or pixels.shape[0])
    try:
        picture.save(path, format="PNG", optimize=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def draw(
    pixels: NDArray[np.uint8], detections: Sequence[Detection], width: int, height: int
) -> Image.Image:
    """Return a copy of the frame with a box and a text for each detection, the best on top.

    `pixels` is (H, W, 3) RGB, boxes are in pixels of a `width` x `height` source.
    """
    picture = Image.fromarray(pixels)
    if not detections:
        return picture
    canvas = ImageDraw.Draw(picture)
    short = min(picture.size)
    line = max(1, round(short / 270))
    font = ImageFont.load_default(size=max(11, short / 40))
    fx, fy = picture.width / width, picture.height / height
    rising = sorted(detections, key=lambda detection: detection.score)
    boxes = [(x1 * fx, y1 * fy, x2 * fx, y2 * fy) for x1, y1, x2, y2 in (d.box for d in rising)]
    for detection, box in zip(rising, boxes, strict=True):
        canvas.rectangle(_ordered(box), outline=color(detection.label), width=line)
    taken: list[Box] = []
    for detection, box in reversed(list(zip(rising, boxes, strict=True))):
        _write_label(canvas, picture.size, box, detection, font, taken)
    return picture


def color(label: str) -> Color:
    """Return the RGB colour of a label, the same in every run."""
    hue = zlib.crc32(label.encode()) * 0.618033988749895 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write_label(
    canvas: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Box,
    detection: Detection,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    taken: list[Box],
) -> None:
    """Write a text on its label's colour above, below or in the box, where no other text is."""
    text = f"{detection.label} {detection.score:.2f}"
    if detection.track_id is not None:
        text += f" #{detection.track_id}"
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    pad = max(2, round((bottom - top) / 5))
    w, h = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(0.0, box[0]), max(0.0, size[0] - w))
    places = [(x, y, x + w, y + h) for y in (box[1] - h, box[3], box[1], box[3] - h)]
    inside = [place for place in places if place[1] >= 0 and place[3] <= size[1]]
    free = [place for place in inside if not any(_overlap(place, other) for other in taken)]
    if not free and taken:
        return  # it would hide the text of a better detection
    place = (free or [(x, 0.0, x + w, float(h))])[0]
    taken.append(place)
    red, green, blue = background = color(detection.label)
    canvas.rectangle(place, fill=background)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue > 110
    fill = (0, 0, 0) if dark else (255, 255, 255)
    canvas.text((x + pad - left, place[1] + pad - top), text, font=font, fill=fill)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ordered(box: Box) -> Box:
    """Order the corners of a box: rounding can swap those of a tiny one, which Pillow refuses."""
    x1, y1, x2, y2 = box
    return x1, y1, max(x1, x2), max(y1, y2)


def _even(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make both sides even, as yuv420p requires, by repeating the last row or column."""
    height, width = pixels.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return pixels
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _unwritable(path: Path, error: Exception) -> VidanError:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        hint = "free space, or name a file on another disk; what is in the database stays"
        return VidanError(f"the disk is full: {path}", hint=hint)
    reason = getattr(error, "strerror", None) or str(error)
    return VidanError(
        f"can't write {path}: {reason}", hint="does the folder exist, and has the disk room?"
    )
