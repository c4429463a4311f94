"""What the headers of files say about their length, where PyAV does not tell it."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

HEADER_BYTES = 64 << 10
"""Bytes at the beginning of a file in which its length is searched."""

MATROSKA_DURATION = re.compile(rb"\x44\x89(\x84.{4}|\x88.{8})", re.DOTALL)
"""The element Duration of the segment's information, RFC 9559 section 5.1.2.10."""

FLV_DURATION = re.compile(rb"\x00\x08duration\x00[^\x00]")
"""The number `duration` of onMetaData, unless it is 0 (AMF 0)."""

ASF_PROPERTIES = re.compile(
    rb"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65.{8}.{16}.{8}.{8}.{8}"
    rb"(?P<play>.{8}).{8}(?P<preroll>.{8})(?P<flags>.{4})",
    re.DOTALL,
)
"""The File Properties Object of an ASF: its section 3.2 of the Advanced Systems Format."""

ASF_BROADCAST = 0x01
"""The flag of an ASF that was written while it was sent: its length is not known."""

APNG_CONTROL = re.compile(rb"\x00\x00\x00\x08acTL(?P<frames>.{4})", re.DOTALL)
"""The chunk acTL of an animated PNG, third edition of PNG, section 11.3.6."""


def head(path: Path) -> bytes:
    """Return the beginning of a file."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def asf_seconds(content: bytes) -> Fraction | None:
    """Return how long an ASF plays.

    FFmpeg does not tell it where the file is shorter than its header says.
    """
    found = ASF_PROPERTIES.search(content)
    if found is None or found["flags"][0] & ASF_BROADCAST:
        return None
    play = Fraction(int.from_bytes(found["play"], "little"), 10**7)
    return play - Fraction(int.from_bytes(found["preroll"], "little"), 1000)


def apng_pictures(content: bytes) -> int | None:
    """Return how many pictures an animated PNG has."""
    found = APNG_CONTROL.search(content)
    return int.from_bytes(found["frames"], "big") if found else None
