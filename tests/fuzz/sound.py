"""Fuzzed videos that are odd but undamaged: a player shows them whole."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from random import Random

import av

from tests.fuzz.kinds import Kind, suffix_of, write
from tests.fuzz.stock import EXACT, X264, Stock
from tests.support import videos


def sound(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random)
    return write(stem, suffix_of(base), base.read_bytes())


def tiny(random: Random, stock: Stock, stem: Path) -> Path:
    """Pictures of very few pixels, often an odd number."""
    codec, suffix, pix_fmt = random.choice(
        [
            ("mjpeg", "avi", "yuvj444p"),
            ("png", "mov", "rgb24"),
            ("libx264", "mp4", "yuv444p"),
            ("rawvideo", "avi", "bgr24"),
        ]
    )
    width, height = random.choice([(1, 1), (2, 2), (1, 7), (7, 1), (3, 5), (17, 9), (1, 200)])
    path = stem.with_suffix(f".{suffix}")
    with av.open(str(path), "w", options=EXACT) as output:
        stream = output.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number in range(random.randint(1, 12)):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), "rgb24")
            frame = frame.reformat(width, height, pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def large(random: Random, stock: Stock, stem: Path) -> Path:
    """A few frames in 8K."""
    codec, options, pix_fmt, suffix = random.choice(
        [
            ("mjpeg", {}, "yuvj420p", "mov"),
            ("libx264", {"preset": "ultrafast", "x264-params": "threads=1"}, "yuv420p", "mp4"),
            ("mpeg4", {}, "yuv420p", "mkv"),
        ]
    )
    base = stock.kept(
        f"8k-{codec}.{suffix}",
        lambda path: videos.encode(
            path, 3, codec=codec, options=options, width=7680, height=4320,
            pix_fmt=pix_fmt, container_options=EXACT,
        ),
    )  # fmt: skip
    return write(stem, suffix, base.read_bytes())


def variable_rate(random: Random, stock: Stock, stem: Path) -> Path:
    times, now = [], random.choice([0, 0, 500])
    for _ in range(random.randint(5, 40)):
        times.append(now)
        now += random.choice([1, 10, 33, 40, 41, 500, 60_000])
    suffix = random.choice(["mp4", "mkv"])
    return videos.encode(stem.with_suffix(f".{suffix}"), len(times), times=times,
                         options=X264, container_options=EXACT)  # fmt: skip


def turned(random: Random, stock: Stock, stem: Path) -> Path:
    return videos.encode(
        stem.with_suffix(random.choice([".mp4", ".mov"])),
        random.randint(4, 20),
        rotation=random.choice([0, 90, 180, 270, 45]),
        mirrored=random.random() < 0.5,
        options=X264,
        container_options=EXACT,
    )


def with_sound(random: Random, stock: Stock, stem: Path) -> Path:
    suffix = random.choice(["mp4", "mkv", "ts", "flv"])
    return videos.encode(stem.with_suffix(f".{suffix}"), random.randint(8, 30), audio=True,
                         options=X264, container_options=EXACT)  # fmt: skip


def fragmented(random: Random, stock: Stock, stem: Path) -> Path:
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof", **EXACT}
    return videos.remux(stock.one(random, "mp4", codec="libx264"), stem.with_suffix(".mp4"),
                        container_options=flags)  # fmt: skip


def raw(random: Random, stock: Stock, stem: Path) -> Path:
    """A stream without a container, and so without timestamps."""
    base = stock.one(random, "264", "265")
    return write(stem, suffix_of(base), base.read_bytes())


KINDS: dict[str, Kind] = {
    "sound": sound,
    "tiny": tiny,
    "8k": large,
    "variable-rate": variable_rate,
    "turned": turned,
    "with-sound": with_sound,
    "fragmented": fragmented,
    "raw": raw,
}
