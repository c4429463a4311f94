"""Fuzzed videos whose headers make absurd claims."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random

import av

from tests.fuzz import headers
from tests.fuzz.kinds import Kind, mux, suffix_of, write
from tests.fuzz.sound import fragmented
from tests.fuzz.stock import EXACT, Stock

MP4 = ("mp4", "mov")


def _patched(patch: Callable[[bytearray, Random], None], *suffixes: str) -> Kind:
    def make_one(random: Random, stock: Stock, stem: Path) -> Path:
        base = stock.one(random, *suffixes)
        content = bytearray(base.read_bytes())
        patch(content, random)
        return write(stem, suffix_of(base), bytes(content))

    return make_one


def huge_h264(random: Random, stock: Stock, stem: Path) -> Path:
    """A huge size in the header of the codec, in a raw stream or in a container."""
    content = headers.sps_size(stock.one(random, "264").read_bytes(), random)
    path = write(stem, "264", content)
    suffix = random.choice([".264", ".mp4", ".mkv", ".ts"])
    if suffix == ".264":
        return path
    packed = stem.with_suffix(suffix)
    with av.open(str(path)) as given, av.open(str(packed), "w", options=EXACT) as output:
        copy = output.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(given.streams.video[0])):
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), copy
            if packet.size:
                mux(output, packet)
    path.unlink()
    return packed


def noted_frames(random: Random, stock: Stock, stem: Path) -> Path:
    """A Matroska whose statistics claim a wrong number of frames."""
    path = stem.with_suffix(".mkv")
    base = stock.one(random, "mp4", codec="libx264")
    with av.open(str(base)) as given, av.open(str(path), "w", options=EXACT) as out:
        copy = out.add_stream_from_template(given.streams.video[0])
        copy.metadata["NUMBER_OF_FRAMES"] = str(random.choice([10, 90, 10**9, 10**18, 10**30, -1]))
        for packet in given.demux(given.streams.video[0]):
            packet.stream = copy
            if packet.size:
                mux(out, packet)
    return path


def far_fragment(random: Random, stock: Stock, stem: Path) -> Path:
    path = fragmented(random, stock, stem)
    content = bytearray(path.read_bytes())
    headers.fragment_time(content, random)
    path.write_bytes(content)
    return path


def huge_jpeg(random: Random, stock: Stock, stem: Path) -> Path:
    """A small file that decodes to a picture of gigabytes."""
    base = stock.one(random, "avi", "mov", codec="mjpeg")
    content = bytearray(base.read_bytes())
    headers.picture_sizes(content, random)
    return write(stem, suffix_of(base), bytes(content))


KINDS: dict[str, Kind] = {
    "huge-mp4": _patched(headers.mp4_size, *MP4),
    "huge-h264": huge_h264,
    "noted-frames": noted_frames,
    "far-fragment": far_fragment,
    "huge-jpeg": huge_jpeg,
    "huge-pictures": _patched(headers.picture_sizes, "webm", "mpg", "ts", "gif", "mov"),
    "time-scale": _patched(headers.mp4_time, *MP4),
    "frame-rate": _patched(headers.mp4_rate, *MP4),
    "sample-counts": _patched(headers.mp4_counts, *MP4),
    "box-sizes": _patched(headers.mp4_box, *MP4),
    "extradata": _patched(headers.extradata, *MP4),
    "avi-header": _patched(headers.avi_header, "avi"),
    "mkv-header": _patched(headers.mkv_header, "mkv", "webm"),
}
