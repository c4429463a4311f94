"""Fuzzed videos with damage, or with wrong timestamps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from random import Random

import av

from tests.fuzz.kinds import Kind, mux, suffix_of, write
from tests.fuzz.sound import fragmented
from tests.fuzz.stock import EXACT, X264, Stock
from tests.support import videos


def truncated(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random)
    return videos.truncated(base, stem.with_suffix(base.suffix), random.random())


def fragment_cut_off(random: Random, stock: Stock, stem: Path) -> Path:
    whole = fragmented(random, stock, stem)
    return videos.truncated(whole, whole, random.random())


def _flipped(random: Random, base: Path, stem: Path, low: float, high: float, flips: int) -> Path:
    content = bytearray(base.read_bytes())
    for _ in range(flips):
        at = random.randrange(int(len(content) * low), max(1, int(len(content) * high)))
        content[at] ^= 1 << random.randrange(8)
    return write(stem, suffix_of(base), bytes(content))


def flipped_header(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random)
    high = min(1.0, 600 / base.stat().st_size)
    return _flipped(random, base, stem, 0, high, random.choice([1, 4, 20]))


def flipped_index(random: Random, stock: Stock, stem: Path) -> Path:
    """Damage at the end of the file, where MP4, AVI and Matroska have their index."""
    base = stock.one(random, "mp4", "mov", "avi", "mkv", "webm")
    low = max(0.0, 1 - 2500 / base.stat().st_size)
    return _flipped(random, base, stem, low, 1, random.choice([1, 8, 50]))


def flipped_pictures(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random)
    return videos.damaged(
        base,
        stem.with_suffix(base.suffix),
        random.choice([0.001, 0.02, 0.3]),
        seed=random.randrange(2**31),
        start=random.choice([0.0, 0.1]),
    )


def flipped_anywhere(random: Random, stock: Stock, stem: Path) -> Path:
    return _flipped(random, stock.one(random), stem, 0, 1, random.choice([1, 10, 100]))


def shifted(random: Random, stock: Stock, stem: Path) -> Path:
    """Bytes are missing in the middle, or were added there."""
    base = stock.one(random)
    content = base.read_bytes()
    at, size = random.randrange(len(content)), random.choice([1, 3, 188, 4096])
    if random.random() < 0.5:
        return write(stem, suffix_of(base), content[:at] + content[at + size :])
    return write(stem, suffix_of(base), content[:at] + random.randbytes(size) + content[at:])


def zeroed(random: Random, stock: Stock, stem: Path) -> Path:
    """A hole of zeros, as an interrupted and resumed copy leaves it."""
    base = stock.one(random)
    content = bytearray(base.read_bytes())
    at = random.randrange(len(content))
    size = min(len(content) - at, random.choice([16, 512, 4096, len(content) // 3]))
    content[at : at + size] = bytes(size)
    return write(stem, suffix_of(base), bytes(content))


def surrounded(random: Random, stock: Stock, stem: Path) -> Path:
    """Garbage before or after the video."""
    base = stock.one(random)
    garbage = random.choice([bytes(4096), random.randbytes(4096), b"\n" * 100])
    parts = [garbage, base.read_bytes()]
    return write(stem, suffix_of(base), b"".join(parts if random.random() < 0.5 else parts[::-1]))


def spliced(random: Random, stock: Stock, stem: Path) -> Path:
    """MPEG-TS files end to end: the timestamps jump back."""
    bases = [stock.one(random, "ts", codec="libx264") for _ in range(random.randint(2, 3))]
    return videos.spliced(bases, stem.with_suffix(".ts"))


def two_codecs(random: Random, stock: Stock, stem: Path) -> Path:
    pair = [stock.one(random, "ts", codec=codec) for codec in ("libx264", "mpeg2video")]
    random.shuffle(pair)
    return videos.spliced(pair, stem.with_suffix(".ts"))


def two_sizes(random: Random, stock: Stock, stem: Path) -> Path:
    """The size of the picture changes in the middle."""
    other = stock.kept(
        "other-size.ts",
        lambda path: videos.encode(
            path, 30, width=320, height=176, options=X264, container_options=EXACT
        ),
    )
    pair = [stock.one(random, "ts", codec="libx264"), other]
    random.shuffle(pair)
    return videos.spliced(pair, stem.with_suffix(".ts"))


def concatenated(random: Random, stock: Stock, stem: Path) -> Path:
    """Two whole files of any kinds, end to end."""
    pair = [stock.one(random), stock.one(random)]
    return videos.spliced(pair, stem.with_suffix(pair[0].suffix))


def wrong_suffix(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random)
    return write(stem, random.choice(["mp4", "avi", "jpg", "txt", "mkv", "264", "mp3"]),
                  base.read_bytes())  # fmt: skip


def packets_lost(random: Random, stock: Stock, stem: Path) -> Path:
    """Packets that are missing, duplicated or out of order."""
    base = stock.one(random, "mp4", "mkv", codec=random.choice(["libx264", "mpeg4"]))
    path = stem.with_suffix(random.choice([".mkv", ".ts", ".avi"]))
    with av.open(str(base)) as given, av.open(str(path), "w", options=EXACT) as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        held: list[bytes] = []
        for packet in given.demux(stream):
            if not packet.size or random.random() < 0.1:
                continue
            if random.random() < 0.05:
                held.append(bytes(packet))
            content = held.pop() if held and random.random() < 0.2 else bytes(packet)
            new = av.Packet(content)
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, copy
            mux(output, new)
    return path


def no_key_frame(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random, "mp4", "mkv", codec=random.choice(["libx264", "mpeg4"]))
    return videos.remux(base, stem.with_suffix(random.choice([".mkv", ".ts"])),
                        skip=random.randint(1, 30), container_options=EXACT)  # fmt: skip


def odd_times(random: Random, stock: Stock, stem: Path) -> Path:
    """Negative, equal and jumping timestamps, without B pictures to reorder."""
    path = stem.with_suffix(random.choice([".mkv", ".ts", ".mp4", ".mov"]))
    manner = random.choice(["negative", "equal", "jumps", "far"])
    with av.open(str(path), "w", options={**EXACT, "avoid_negative_ts": "0"}) as output:
        stream = output.add_stream("mpeg4", rate=25, options={"g": "12"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = videos.WIDTH, videos.HEIGHT, "yuv420p"
        now, number = -20 if manner == "negative" else 0, 0
        packets = []
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()]:
            packet.pts = packet.dts = now
            mux(output, packet)
            if manner == "equal":
                now += random.choice([0, 0, 1]) if path.suffix == ".ts" else random.choice([1, 2])
            elif manner == "jumps":
                now += random.choice([1, 1, 1, 5_000, 100_000])
            else:
                now += 1 if manner == "negative" else random.choice([1, 10**6])
    return path


def raw_damaged(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random, "264", "265")
    return _flipped(random, base, stem, 0.02, 1, random.choice([1, 10, 60]))


def edit_list(random: Random, stock: Stock, stem: Path) -> Path:
    base = stock.one(random, "mp4", codec="libx264")
    edits = [
        (random.choice([0, 5, 13, 20, 1000]), random.choice([0, 1, 7, 25, 100_000]))
        for _ in range(random.randint(1, 4))
    ]
    return videos.cut_by_edit_list(base, stem.with_suffix(".mp4"), edits)


KINDS: dict[str, Kind] = {
    "truncated": truncated,
    "fragment-cut-off": fragment_cut_off,
    "flipped-header": flipped_header,
    "flipped-index": flipped_index,
    "flipped-pictures": flipped_pictures,
    "flipped-anywhere": flipped_anywhere,
    "shifted": shifted,
    "zeroed": zeroed,
    "surrounded": surrounded,
    "spliced": spliced,
    "two-codecs": two_codecs,
    "two-sizes": two_sizes,
    "concatenated": concatenated,
    "wrong-suffix": wrong_suffix,
    "packets-lost": packets_lost,
    "no-key-frame": no_key_frame,
    "odd-times": odd_times,
    "raw-damaged": raw_damaged,
    "edit-list": edit_list,
}
