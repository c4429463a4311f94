"""Pictures that carry their numbers, so that what is in a picture can be told from its name.

The number is drawn as 12 blocks across the top quarter: block 0 at the left is bit 0, bright is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vidan.domain.detection import Gap
from vidan.video.opening import open_source

BITS = 12
BRIGHT, DARK = 235, 16


def draw(number: int, width: int = 192, height: int = 64) -> NDArray[np.uint8]:
    """Return (height, width, 3), RGB."""
    image = np.full((height, width), 100, np.uint8)
    image[height // 4 :] += np.uint8(number % 50)
    for bit in range(BITS):
        block = slice(bit * width // BITS, (bit + 1) * width // BITS)
        image[: height // 4, block] = BRIGHT if number >> bit & 1 else DARK
    return np.repeat(image[:, :, None], 3, 2)


def number_in(pixels: NDArray[np.uint8]) -> int:
    """Return the number that a picture carries."""
    height, width, _ = pixels.shape
    row = pixels[height // 8, :, 1]
    return sum(1 << bit for bit in range(BITS) if row[(2 * bit + 1) * width // (2 * BITS)] > 128)


class Numbers:
    """What a source gave: for each frame its number, the one in its picture, and its time."""

    def __init__(self, path: Path | str, size: int = 1, **options: Any) -> None:
        self.frames: list[tuple[int, int, int]] = []
        self.gaps: list[Gap] = []
        self.places: list[dict[str, Any]] = []
        """Where a run may resume: the options of `open_source` after each batch."""
        source = open_source(str(path), **options)
        try:
            for batch in source.batches(size):
                for index, time, pixels in zip(
                    batch.indices.tolist(), batch.times.tolist(), batch.pixels, strict=True
                ):
                    self.frames.append((index, number_in(pixels), time))
                self.gaps += batch.gaps
                self.places.append(
                    {
                        "frame": batch.next_frame,
                        "pts": batch.next_pts,
                        "restart": batch.next_restart,
                    }
                )
        finally:
            source.close()

    @property
    def wrong(self) -> list[tuple[int, int]]:
        """Frames whose pictures carry another number."""
        return [(index, number) for index, number, _ in self.frames if index != number]

    @property
    def lost(self) -> list[int]:
        return [n for gap in self.gaps for n in range(gap.from_frame, gap.to_frame + 1)]


def resume_differs(whole: Numbers, path: Path, place: dict[str, Any], **options: Any) -> str:
    """Resume at a place; return what differs from the rest of the undisturbed run, or ""."""
    again = Numbers(path, 8, **place, **options)
    frames = [one for one in whole.frames if one[0] >= place["frame"]]
    gaps = [gap for gap in whole.gaps if gap.from_frame >= place["frame"]]
    if (again.frames, again.gaps) == (frames, gaps):
        return ""
    return f"from {place}: {again.frames[:3]}… {again.gaps}, not {frames[:3]}… {gaps}"


def encode(
    path: Path,
    frames: int = 60,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Encode numbered pictures, 25 a second."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=dict(options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(number), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def copied(
    source: Path, path: Path, change: Callable[[int, av.Packet[av.VideoStream]], bytes | None]
) -> Path:
    """Copy a video's packets into another container, with timestamps in the order of decoding.

    `change` gets each packet's place and the packet, and returns its new content; None: left out.
    """
    with av.open(str(source)) as given, av.open(str(path), "w") as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        written = 0
        for place, packet in enumerate(one for one in given.demux(stream) if one.size):
            content = change(place, packet)
            if content is None:
                continue
            new = av.Packet(content)
            new.stream, new.time_base = copy, Fraction(1, 25)
            new.pts = new.dts = written
            new.duration, new.is_keyframe = 1, packet.is_keyframe
            output.mux(new)
            written += 1
    return path
