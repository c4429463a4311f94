"""Reads how long a fragmented MP4 is, and what its last fragment lists beyond the file's end.

The structures are those of ISO/IEC 14496-12: section 8.8 for fragments, 8.16.3 for `sidx`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

MAX_BOXES = 500_000
"""Most boxes that are looked at: a fragment may be as short as a picture."""

MAX_SAMPLES = 500_000
"""Most samples of one list: a damaged one may claim billions."""

BLOCK = 4096
"""Bytes that are read at once."""


class Content:
    """The content of an open file, as long as it was at first.

    It is read, not mapped into memory: where a mapped file is cut or its storage drops out, the
    kernel ends the process.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._size = os.fstat(file).st_size
        self._at, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def byte(self, at: int) -> int:
        """Return the byte at a place. Raises struct.error or OSError if it isn't there."""
        return int(self.unpack("B", at)[0])

    def unpack(self, layout: str, at: int) -> tuple[Any, ...]:
        """Return the values at a place. Raises struct.error or OSError if they aren't there."""
        size = struct.calcsize(layout)
        if not self._at <= at <= self._at + len(self._block) - size:
            self._at, self._block = at, os.pread(self._file, max(size, BLOCK), at)
        return struct.unpack_from(layout, self._block, at - self._at)


@dataclass(frozen=True, slots=True)
class Box:
    """A box: its kind, where it starts, where its content starts, and where it ends."""

    kind: bytes
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Fragments:
    """What a fragmented MP4 promises.

    `seconds` is the time from its beginning to its end, `span` that from the first picture to the
    end of the last. `unread` is the number of pictures that are listed, but lie beyond the file's
    end. `ends_inside`: the file ends in the middle of a list of pictures.
    """

    seconds: Fraction | None
    span: Fraction | None
    unread: int
    ends_inside: bool


def fragments(path: Path, track: int) -> Fragments | None:
    """Return what the file promises about a track; None if it isn't a fragmented MP4."""
    with path.open("rb") as file:
        return _read(Content(file.fileno()), track)


def _read(content: Content, track: int) -> Fragments | None:
    seconds: Fraction | None = None
    default_size = 0
    fragmented = False
    first: Fraction | None = None
    last: Fraction | None = None
    moof: Box | None = None
    ends_inside = False
    for box in boxes(content, 0, len(content)):
        if box.end > len(content) and box.kind != b"mdat":
            ends_inside = box.kind == b"moof"
            break
        if box.kind == b"moov":
            fragmented, seconds, default_size = _movie(content, box, track)
        elif box.kind == b"sidx":
            begin, end = _index(content, box, track)
            if begin is not None and end is not None:
                first = begin if first is None else min(first, begin)
                last = end if last is None else max(last, end)
        elif box.kind == b"moof":
            moof = box
    if not fragmented:
        return None
    span = last - first if first is not None and last is not None else None
    unread = _unread(content, moof, track, default_size) if moof else 0
    return Fragments(seconds, span, unread, ends_inside)


def boxes(content: Content, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes from `at` to `end`. The last one may end later, where a file was cut off."""
    for _ in range(MAX_BOXES):
        if at + 16 > end:
            return
        size, kind = content.unpack(">I4s", at)
        body = at + 8
        if size == 1:
            (size,), body = content.unpack(">Q", body), at + 16
        elif size == 0:
            size = end - at
        if size < body - at:
            return
        yield Box(kind, at, body, at + size)
        at += size


def _movie(content: Content, moov: Box, track: int) -> tuple[bool, Fraction | None, int]:
    """Return (whether fragments follow, seconds, default size of a sample) of a `moov`."""
    seconds: Fraction | None = None
    fragmented, scale, size = False, 0, 0
    for box in boxes(content, moov.body, moov.end):
        if box.kind == b"mvhd":
            (scale,) = content.unpack(">I", box.body + (20 if content.byte(box.body) else 12))
        elif box.kind == b"mvex":
            fragmented = True
            for inner in boxes(content, box.body, box.end):
                if inner.kind == b"mehd" and scale:
                    wide = bool(content.byte(inner.body))
                    (ticks,) = content.unpack(">Q" if wide else ">I", inner.body + 4)
                    seconds = Fraction(ticks, scale) or None
                elif inner.kind == b"trex":
                    number, _, _, default = content.unpack(">IIII", inner.body + 4)
                    size = default if number == track else size
    return fragmented, seconds, size


def _index(content: Content, box: Box, track: int) -> tuple[Fraction | None, Fraction | None]:
    """Return the seconds at which the pictures of a `sidx` begin and end."""
    version = content.byte(box.body)
    of, scale = content.unpack(">II", box.body + 4)
    if of != track or not scale:
        return None, None
    begin, _ = content.unpack(">QQ" if version else ">II", box.body + 12)
    at = box.body + (30 if version else 22)
    (count,) = content.unpack(">H", at)
    ticks = 0
    for place in range(count):
        (_, length, _) = content.unpack(">III", at + 2 + 12 * place)
        ticks += length
    return Fraction(begin, scale), Fraction(begin + ticks, scale)


def _unread(content: Content, moof: Box, track: int, default_size: int) -> int:
    """Return how many pictures of a fragment begin beyond the end of the file."""
    at, unread = moof.start, 0
    for traf in boxes(content, moof.body, moof.end):
        if traf.kind != b"traf":
            continue
        base, size, of = at, default_size, 0
        for box in boxes(content, traf.body, traf.end):
            if box.kind == b"tfhd":
                of, base, size = _header(content, box, moof.start, at, default_size)
                at = base
            elif box.kind == b"trun":
                begins, at = _run(content, box, base, at, size)
                if of == track:
                    unread += sum(begin >= len(content) for begin in begins)
    return unread


def _header(
    content: Content, box: Box, moof: int, after: int, default_size: int
) -> tuple[int, int, int]:
    """Return (track, where offsets count from, default size of a sample) of a `tfhd`."""
    flags, track = content.unpack(">II", box.body)
    at = box.body + 8
    base = moof if flags & 0x020000 else after
    if flags & 0x01:
        (base,) = content.unpack(">Q", at)
        at += 8
    at += 4 * bool(flags & 0x02) + 4 * bool(flags & 0x08)
    if flags & 0x10:
        (default_size,) = content.unpack(">I", at)
    return track, base, default_size


def _run(content: Content, box: Box, base: int, at: int, size: int) -> tuple[list[int], int]:
    """Return where the samples of a `trun` begin, and where the last one ends."""
    flags, count = content.unpack(">II", box.body)
    place = box.body + 8
    if flags & 0x01:
        (offset,) = content.unpack(">i", place)
        at = base + offset
        place += 4
    place += 4 * bool(flags & 0x04)
    before = 4 * bool(flags & 0x100)
    width = before + 4 * sum(bool(flags & one) for one in (0x200, 0x400, 0x800))
    begins = []
    for number in range(min(count, box.end - box.body, MAX_SAMPLES)):
        begins.append(at)
        if flags & 0x200:
            (size,) = content.unpack(">I", place + number * width + before)
        at += size
    return begins, at
