"""Makes small test videos with PyAV: undamaged ones in many containers, and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, RATE = 64, 48, 25
X264 = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:keyint=20:scenecut=0:threads=1"}
"""Groups of 20 pictures, with three B pictures between the others."""


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Draw a moving gradient with a square that crosses it, different for each number.

    Returns (height, width, 3), RGB.
    """
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 2 + number * 5, y * 3 + number * 3, x + y + number * 7]
    image = np.stack([plane % 256 for plane in planes], -1).astype(np.uint8)
    side = height // 4
    left = number * 3 % (width - side)
    image[side : 2 * side, left : left + side] = 255
    return image


def encode(
    path: Path,
    frames: int = 60,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    container: str | None = None,
    container_options: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    audio: bool = False,
) -> Path:
    """Encode a video. `times`: milliseconds at which frames are shown, by default 25 a second."""
    with av.open(str(path), "w", format=container, options=dict(container_options or {})) as output:
        stream = output.add_stream(
            codec, rate=RATE, options=dict(X264 if options is None else options)
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = output.add_stream("aac", rate=8000) if audio else None
        for number in range(frames):
            if width <= 320:
                frame = av.VideoFrame.from_ndarray(picture(number, width, height), "rgb24")
            else:  # quicker: draw the picture small, and scale it
                frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
                frame = frame.reformat(width, height, pix_fmt)
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, RATE) if times is None else Fraction(1, 1000)
            output.mux(stream.encode(frame))
            if isinstance(sound, av.AudioStream):
                output.mux(sound.encode(_silence(number)))
        output.mux(stream.encode())
        if isinstance(sound, av.AudioStream):
            output.mux(sound.encode())
    return path


def _silence(number: int) -> av.AudioFrame:
    samples = 8000 // RATE
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, number * samples, Fraction(1, 8000)
    return frame


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        for number in range(25):
            output.mux(stream.encode(_silence(number)))
        output.mux(stream.encode())
    return path


def remux(
    source: Path,
    path: Path,
    *,
    skip: int = 0,
    limit: int | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Copy the packets of a video into another container.

    The first `skip` packets are left out, and `limit` counts these as well.
    """
    options = dict(container_options or {})
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = (packet for packet in given.demux(stream) if packet.size)
        for number, packet in enumerate(islice(packets, limit)):
            if number >= skip:
                packet.stream = copy
                output.mux(packet)
    return path


def spliced(sources: Sequence[Path], path: Path) -> Path:
    """Join files end to end; in an MPEG-TS the timestamps then jump back."""
    path.write_bytes(b"".join(source.read_bytes() for source in sources))
    return path


def truncated(source: Path, path: Path, share: float) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def damaged(
    source: Path, path: Path, share: float = 0.1, *, seed: int = 0, start: float = 0.0
) -> Path:
    """Replace a `share` of the bytes by random ones, eight at a time; of an MP4 only its pictures.

    `start` (0…1) is the part of the file from which on bytes are replaced.
    """
    content = np.frombuffer(source.read_bytes(), np.uint8).copy()
    low, high = int(len(content) * start), len(content)
    if (found := source.read_bytes().find(b"mdat")) >= 0:
        low = max(low, found + 4)
        high = found - 4 + int.from_bytes(source.read_bytes()[found - 4 : found], "big")
    random = np.random.default_rng(seed)
    for at in random.integers(low, high - 8, max(1, int((high - low) * share / 8))):
        content[at : at + 8] = random.integers(0, 256, 8)
    path.write_bytes(content.tobytes())
    return path


def cut_by_edit_list(source: Path, path: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """Make an MP4 (its index last) show only some stretches: (first, count), 25 frames a second.

    A new edit list (ISO/IEC 14496-12, 8.6.6) replaces the one in the file.
    """
    content = source.read_bytes()
    with av.open(str(source)) as given:
        scale = (given.streams.video[0].time_base or Fraction(1)).denominator
    at = content.index(b"elst") - 4
    old = int.from_bytes(content[at : at + 4], "big")
    entries = content[at + 16 : at + 24]
    shift = int.from_bytes(entries[4:8], "big")  # decoding begins earlier than showing
    new = struct.pack(">II", 0, len(edits))
    for first, count in edits:
        new += struct.pack(">IiI", count * 1000 // RATE, first * scale // RATE + shift, 0x10000)
    box = struct.pack(">I", len(new) + 8) + b"elst" + new
    patched = bytearray(content[:at] + box + content[at + old :])
    for kind in (b"moov", b"trak", b"edts"):
        size = patched.index(kind) - 4
        (length,) = struct.unpack_from(">I", patched, size)
        struct.pack_into(">I", patched, size, length + len(box) - old)
    path.write_bytes(bytes(patched))
    return path


def plain(path: Path, brightness: int, width: int = WIDTH, frames: int = 24) -> Path:
    """Make frames of one brightness, except for a line that grows."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, HEIGHT, "yuv420p"
        for number in range(frames):
            image = np.full((HEIGHT, width, 3), brightness, np.uint8)
            image[0, : number % width] = 255
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    return path
