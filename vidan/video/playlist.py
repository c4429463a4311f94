"""Reads a playlist of HLS (RFC 8216): how long it says that its segments are."""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from urllib.parse import urljoin

from vidan.errors import VidanError
from vidan.video.container import import_av, local_path, scheme_of

NEAR = Fraction(1, 10)
"""By which share of a hole the times of segments may differ from those of their pictures."""

LENGTH = re.compile(r"\d{1,9}(\.\d{0,30})?")
"""The length of a segment, in seconds. Numbers such as 1e999999999 would take minutes."""

MAX_BYTES = 16 << 20
"""Most bytes of a playlist that are read."""


@dataclass(frozen=True, slots=True)
class Playlist:
    """A playlist of segments. `seconds` is their sum, `uncertain` by how much it may be too long.

    `lost` is the length, in seconds, of the segments at its end that can't be opened. With `jumps`
    the timestamps of a segment need not follow those of the segment before. `starts` are the times,
    in seconds, at which segments begin, and the last one's end.
    """

    seconds: Fraction
    uncertain: Fraction
    lost: Fraction
    jumps: bool
    starts: tuple[Fraction, ...] = ()

    def lacks(self, after: Fraction, before: Fraction) -> bool:
        """Whether a whole segment lies between two pictures that follow each other, in seconds."""
        near = NEAR * (before - after)
        pairs = zip(self.starts, self.starts[1:], strict=False)
        return any(after - near < begin and end < before + near for begin, end in pairs)


def playlist(source: str, timeout: float) -> Playlist | None:
    """Read a playlist, or the first one that a list of variants names; None if it has no end."""
    lines = _lines(source, timeout)
    if any(line.startswith("#EXT-X-STREAM-INF") for line in lines):
        variant = next((line for line in lines if not line.startswith("#")), None)
        if variant is None:
            return None
        source = _joined(source, variant)
        lines = _lines(source, timeout)
    if "#EXT-X-ENDLIST" not in lines:
        return None
    segments: list[tuple[Fraction, str]] = []
    unit, length = Fraction(0), Fraction(0)
    for line in lines:
        if line.startswith("#EXTINF:"):
            text = line.removeprefix("#EXTINF:").split(",")[0].strip()
            if LENGTH.fullmatch(text) is None:
                return None
            length = Fraction(text)
            unit = max(unit, Fraction(1, 10 ** len(text.partition(".")[2])))
        elif not line.startswith("#"):
            segments.append((length, line))
    count = len(segments)
    # Whole seconds may all be rounded up; other lengths are rounded to the nearest.
    uncertain = unit * count if unit == 1 else unit * math.isqrt(count)
    return Playlist(
        sum((length for length, _ in segments), Fraction(0)),
        uncertain,
        _lost(source, segments, timeout),
        "#EXT-X-DISCONTINUITY" in lines,
        tuple(accumulate((length for length, _ in segments), initial=Fraction(0))),
    )


def _lost(source: str, segments: list[tuple[Fraction, str]], timeout: float) -> Fraction:
    """Return how long the segments at the end are that can't be opened.

    After `timeout` seconds it looks at no more of them: a server may answer none.
    """
    lost, until = Fraction(0), time.monotonic() + timeout
    for length, name in reversed(segments):
        if time.monotonic() > until:
            break
        with suppress(OSError, VidanError, import_av().FFmpegError):
            if _read(_joined(source, name), timeout, most=1):
                break
        lost += length
    return lost


def _lines(source: str, timeout: float) -> list[str]:
    text = _read(source, timeout, most=MAX_BYTES).decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _joined(source: str, name: str) -> str:
    if scheme_of(source) or scheme_of(name):
        joined = urljoin(source, name)
        if not scheme_of(joined):
            raise VidanError(f"a playlist on a server can't name the file {name}")
        return joined
    return str(local_path(source).parent / name)


def _read(source: str, timeout: float, most: int) -> bytes:
    """Return the beginning of a file or of what a URL gives. Raises OSError."""
    if not scheme_of(source):
        with local_path(source).open("rb") as file:
            return file.read(most)
    content = b""
    with import_av().open(source, format="data", timeout=(timeout, timeout)) as opened:
        for packet in opened.demux():
            content += bytes(packet)
            if len(content) >= most:
                break
    return content
