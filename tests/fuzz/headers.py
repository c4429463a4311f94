"""Makes headers claim the absurd: pictures of gigapixels, durations of centuries or of nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

HUGE_SIZES = ((65_535, 65_535), (16_000, 16_000), (65_535, 1), (1, 65_535), (30_000, 8_000))
"""(width, height). 16,000 x 16,000 is the largest size that FFmpeg itself accepts."""


def found(content: bytes | bytearray, mark: bytes) -> list[int]:
    """Return all positions of a mark in a file."""
    places, at = [], content.find(mark)
    while at >= 0:
        places.append(at)
        at = content.find(mark, at + 1)
    return places


def _put(content: bytearray, form: str, at: int, *values: int) -> None:
    if 0 <= at <= len(content) - struct.calcsize(form):
        struct.pack_into(form, content, at, *values)


def mp4_size(content: bytearray, random: Random) -> None:
    """The size in the track header or the sample description (ISO/IEC 14496-12, 8.3.2, 12.1.3)."""
    width, height = random.choice(HUGE_SIZES)
    for at in found(content, b"tkhd"):
        end = at - 4 + int.from_bytes(content[at - 4 : at], "big")
        _put(content, ">HHHH", end - 8, width, 0, height, 0)
    for mark in (b"avc1", b"hvc1", b"hev1", b"mp4v", b"vp09", b"av01", b"jpeg", b"png "):
        for at in found(content, mark):
            if random.random() < 0.8:
                _put(content, ">HH", at + 28, width, height)


def mp4_time(content: bytearray, random: Random) -> None:
    """Time scales of 0 or 10⁹, durations of centuries (8.2.2, 8.4.2)."""
    scale = random.choice([0, 1, 10**9, 2**32 - 1, None])
    duration = random.choice([0, 2**32 - 1, 2**31, None])
    for mark in random.choice([(b"mdhd",), (b"mvhd",), (b"mdhd", b"mvhd")]):
        for at in found(content, mark):
            if content[at + 4] == 0:  # version 0: times of 32 bits
                if scale is not None:
                    _put(content, ">I", at + 16, scale)
                if duration is not None:
                    _put(content, ">I", at + 20, duration)


def mp4_rate(content: bytearray, random: Random) -> None:
    """All pictures at the same time, or each with an endless duration (8.6.1.2)."""
    delta = random.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
    for at in found(content, b"stts"):
        entries = min(int.from_bytes(content[at + 8 : at + 12], "big"), 1000)
        for entry in range(entries):
            _put(content, ">I", at + 16 + 8 * entry, delta)


def mp4_counts(content: bytearray, random: Random) -> None:
    """Tables that claim more entries than the file has bytes (8.6.1, 8.7)."""
    count = random.choice([2**32 - 1, 2**31 - 1, 2**28, 100_000_000, 5_000_000, 0])
    mark = random.choice([b"stts", b"stsz", b"stsc", b"stco", b"ctts", b"stss", b"elst"])
    for at in found(content, mark):
        _put(content, ">I", at + (12 if mark == b"stsz" else 8), count)
        if mark == b"stsz" and random.random() < 0.5:
            _put(content, ">I", at + 8, random.choice([1, 2**31, 2**32 - 1]))  # one size for all
        if mark == b"stts" and random.random() < 0.5:
            _put(content, ">I", at + 12, random.choice([2**32 - 1, 2**28]))  # a run of samples


def mp4_box(content: bytearray, random: Random) -> None:
    """Boxes of size 0, 1, 7 or 2⁶³, or a box that swallows all others."""
    marks = [b"ftyp", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mdat", b"udta"]
    places = [at for mark in marks for at in found(content, mark)[:1]]
    if places:
        at = random.choice(places)
        size = random.choice([0, 1, 7, 8, 2**31, 2**32 - 1, len(content), 2 * len(content)])
        _put(content, ">I", at - 4, size)
        if size == 1:
            _put(content, ">Q", at + 4, random.choice([0, 2**63, 2**64 - 1]))


def extradata(content: bytearray, random: Random) -> None:
    """Random bytes in the configuration that the decoder gets before the first picture."""
    for mark in (b"avcC", b"hvcC", b"esds", b"av1C", b"vpcC"):
        for at in found(content, mark):
            size = int.from_bytes(content[at - 4 : at], "big")
            for place in range(at + 4, min(at - 4 + size, len(content))):
                if random.random() < 0.3:
                    content[place] = random.randrange(256)


def avi_header(content: bytearray, random: Random) -> None:
    """Rates, sizes and counts of an AVI, in its main header and its stream header."""
    extreme = [0, 1, 10**9, 2**31 - 1, 2**32 - 1]
    for at in found(content, b"avih"):
        _put(content, "<I", at + 8, random.choice(extreme))  # microseconds a frame
        _put(content, "<I", at + 24, random.choice(extreme))  # frames
    for at in found(content, b"strh"):
        _put(content, "<II", at + 28, random.choice(extreme), random.choice(extreme))
    for at in found(content, b"strf"):
        if random.random() < 0.5:
            _put(content, "<II", at + 12, *random.choice(HUGE_SIZES))


def mkv_header(content: bytearray, random: Random) -> None:
    """The size, time scale, duration or frame duration of a Matroska."""
    width, _ = random.choice(HUGE_SIZES)
    field = random.choice(["width", "height", "scale", "rate", "duration"])
    for at in found(content, b"\xb0\x81")[:1]:  # PixelWidth: its value is one byte, and the next
        if field == "width":  # bytes become part of it
            content[at + 1 : at + 4] = b"\x82" + struct.pack(">H", width)
    for at in found(content, b"\xba\x81")[:1]:  # PixelHeight
        if field == "height":
            content[at + 2] = random.choice([0, 1, 255])
    for at in found(content, b"\x2a\xd7\xb1\x83"):  # TimestampScale
        if field == "scale":
            content[at + 4 : at + 7] = random.choice([b"\0\0\0", b"\0\0\1", b"\xff\xff\xff"])
    for at in found(content, b"\x23\xe3\x83\x84"):  # DefaultDuration
        if field == "rate":
            _put(content, ">I", at + 4, random.choice([0, 1, 2**32 - 1]))
    for at in found(content, b"\x44\x89\x88"):  # Duration: 0, infinite, not a number, negative
        if field == "duration":
            _put(
                content, ">Q", at + 3, random.choice([0, 0x7FF0 << 48, 0x7FF8 << 48, 0xFFEF << 48])
            )


def fragment_time(content: bytearray, random: Random) -> None:
    """Decode times of fragments beyond any calendar, in seconds (ISO/IEC 14496-12, 8.8.12)."""
    for at in found(content, b"mdhd"):
        _put(content, ">I", at + 16, 1)
    for at in found(content, b"tfdt")[1:]:
        if content[at + 4] == 1:
            _put(content, ">Q", at + 8, random.choice([2**62, 2**61, 2**40]) + at)
        else:
            _put(content, ">I", at + 8, 2**31 + at)


def picture_sizes(content: bytearray, random: Random) -> None:
    """Sizes inside the pictures: JPEG, VP8, MPEG-2, GIF, PNG."""
    width, height = random.choice(HUGE_SIZES)
    for mark in (b"\xff\xc0\x00\x11", b"\xff\xc2\x00\x11"):  # start of frame
        for at in found(content, mark):
            _put(content, ">HH", at + 5, height, width)
    for at in found(content, b"\x9d\x01\x2a"):  # a key frame, RFC 6386 section 9.1
        _put(content, "<HH", at + 3, width & 0x3FFF, height & 0x3FFF)
    for at in found(content, b"\x00\x00\x01\xb3"):  # a sequence header: 12 bits each
        content[at + 4 : at + 7] = b"\xff\xff\xff"
    if content[:3] == b"GIF":
        _put(content, "<HH", 6, width, height)
    for at in found(content, b"\x00\x00\x00\x0dIHDR"):
        _put(content, ">II", at + 8, width, height)


def sps_size(annex_b: bytes, random: Random) -> bytes:
    """Change the size in a raw .264, in its sequence parameter sets (ITU-T H.264, 7.3.2.1.1)."""
    width, height = random.choice(HUGE_SIZES)
    units = []
    for unit in annex_b.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1"):
        if unit and unit[0] & 31 == 7:
            units.append(unit[:1] + _sps(unit[1:], max(1, width // 16), max(1, height // 16)))
        elif unit:
            units.append(unit)
    return b"".join(b"\0\0\0\1" + unit for unit in units)


def _sps(body: bytes, columns: int, rows: int) -> bytes:
    plain = body.replace(b"\0\0\3", b"\0\0")
    bits = "".join(f"{byte:08b}" for byte in plain)
    at = 24

    def golomb() -> int:
        nonlocal at
        zeros = bits.index("1", at) - at
        value = int(bits[at + zeros : at + 2 * zeros + 1], 2) - 1
        at += 2 * zeros + 1
        return value

    golomb()  # id
    if plain[0] in (100, 110, 122, 244):
        for _ in range(3):  # chroma format, bit depths
            golomb()
        at += 2
    golomb()  # log2 of the largest frame number
    if golomb() == 0:  # the type of the picture order count, 0 or 2 by x264
        golomb()
    golomb()  # reference frames
    at += 1
    head = bits[:at]
    golomb()
    golomb()
    changed = head + _exp_golomb(columns - 1) + _exp_golomb(rows - 1) + bits[at:]
    changed += "0" * (-len(changed) % 8)
    raw = bytes(int(changed[i : i + 8], 2) for i in range(0, len(changed), 8))
    return b"".join(_escaped(raw))


def _exp_golomb(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _escaped(raw: bytes) -> Iterator[bytes]:
    zeros = 0
    for byte in raw:
        if zeros >= 2 and byte <= 3:
            yield b"\3"
            zeros = 0
        zeros = zeros + 1 if byte == 0 else 0
        yield bytes([byte])
