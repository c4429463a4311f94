"""Why nothing in a file can be decoded, where the file itself says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidan.video.optional import look_up

if TYPE_CHECKING:
    from pathlib import Path

    from av import Packet, VideoStream

HEAD_BYTES = 1 << 20
"""Bytes at the beginning of a file that are looked at."""

DECRYPT = "decrypt it first"

ANIMATED = 0x02
"""The flag of an animation in the chunk VP8X of a WebP."""

TS_SIZES = (188, 192, 204)
"""Sizes of the packets of an MPEG-TS: plain, of a Blu-ray, with error correction."""

FEWEST_PACKETS = 5
"""Fewest packets in a row by which an MPEG-TS is known."""


def is_encrypted(packet: Packet[VideoStream]) -> bool:
    """Whether the container says that the packet is encrypted, as an MP4 does."""
    return look_up("encryption", lambda: packet.has_sidedata("encryption_info"), False)


def explained(path: Path | None, message: str, hint: str) -> tuple[str, str]:
    """Return (message, hint) for a file in which nothing can be decoded.

    They are the given ones, unless the file says why; None for what is no local file.
    """
    head = b"" if path is None else look_up("the file's head", lambda: _head(path), b"")
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & ANIMATED:
        return f"{path} is an animated WebP, which can't be decoded", "convert it to a video or GIF"
    if _is_scrambled(head):
        return f"the MPEG-TS is encrypted (scrambled): {path}", DECRYPT
    return message, hint


def _head(path: Path) -> bytes:
    if not path.is_file():  # what is read from a pipe would be gone
        return b""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _is_scrambled(head: bytes) -> bool:
    """Whether most packets of a stream of an MPEG-TS are scrambled.

    Source of the two bits: ISO/IEC 13818-1, section 2.4.3.2.
    """
    for size in TS_SIZES:
        start = 4 if size == 192 else 0
        packets = [head[at : at + 4] for at in range(start, len(head) - 3, size)]
        if len(packets) < FEWEST_PACKETS or any(one[0] != 0x47 for one in packets):
            continue
        counts: dict[int, list[int]] = {}
        for one in packets:
            stream = (one[1] & 0x1F) << 8 | one[2]
            counts.setdefault(stream, [0, 0])[one[3] >> 6 != 0] += 1
        return any(scrambled > clear for clear, scrambled in counts.values())
    return False
