"""How long a video is according to its header, and how many pictures its end lacks.

An MP4 lists its packets, so its pictures are counted (`vidan.video.probe`). Other containers say
how long they are; a file that was cut off ends earlier. What FFmpeg estimates from the file's size
is no promise: it would shrink with the file.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from vidan.video.container import Opened, local_path
from vidan.video.timeline import REORDER

if TYPE_CHECKING:
    from av import Packet, VideoStream

HEADER_BYTES = 64 << 10
"""Bytes at the beginning of a file in which its duration is searched."""

MATROSKA_DURATION = re.compile(rb"\x44\x89(\x84.{4}|\x88.{8})", re.DOTALL)
"""The element Duration of the segment's information, RFC 9559 section 5.1.2.10."""

FLV_DURATION = re.compile(rb"\x00\x08duration\x00[^\x00]")
"""The number `duration` of onMetaData, unless it is 0 (AMF 0)."""

UNEVEN = Fraction(1, 10)
"""If more than this share of pictures last longer than usual, the video has no even rate."""

FEW = 8
"""Fewest pictures of which the rate can be judged."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The end of the last picture and the time between two, in units of the stream's time base."""

    end: Fraction
    step: Fraction


def promised(
    opened: Opened, source: str, rate: Fraction | None, first: Sequence[Packet[VideoStream]]
) -> Promise | None:
    """Return what the container's header promises. None: nothing that could be relied on.

    `first` are the first packets of the file.
    """
    if opened.live or not rate or not opened.container.size:
        return None
    tick = Fraction(opened.time_base)
    step = 1 / (Fraction(rate) * tick)
    end: Fraction | None = None
    name = opened.container.format.name
    if name == "avi":
        stamps = [stamp for packet in first if (stamp := _stamp(packet)) is not None]
        if stamps and opened.stream.frames:
            end = min(stamps) + opened.stream.frames * step
    elif "matroska" in name:
        end = _seconds_of_matroska(opened, source, rate, tick)
    elif name == "flv" and _has(source, opened, FLV_DURATION):
        end = _only_stream(opened, tick)
    # a picture takes at least a byte, so a header that claims more pictures is damaged
    if end is None or end > opened.container.size * step:
        return None
    return Promise(end, step)


def _seconds_of_matroska(
    opened: Opened, source: str, rate: Fraction, tick: Fraction
) -> Fraction | None:
    """Return the end that the statistics of the stream name, else that of the only stream."""
    noted = re.fullmatch(
        r"(\d{1,6}):(\d\d):(\d\d\.\d{1,9})", opened.stream.metadata.get("DURATION", "")
    )
    whole = opened.container.duration
    if noted is None:
        return _only_stream(opened, tick) if _has(source, opened, MATROSKA_DURATION) else None
    hours, minutes, seconds = noted.groups()
    end = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if whole and end > Fraction(whole, 10**6) + 1 / rate:
        return None  # one of both is damaged
    return end / tick


def _only_stream(opened: Opened, tick: Fraction) -> Fraction | None:
    """Return the duration of the container, unless sound may last longer than the video."""
    whole = opened.container.duration
    if not whole or len(opened.container.streams) != 1:
        return None
    return Fraction(whole, 10**6) / tick


def _has(source: str, opened: Opened, element: re.Pattern[bytes]) -> bool:
    """Whether the header of a local file has this element."""
    if opened.network:
        return False
    with local_path(source).open("rb") as file:
        return element.search(file.read(HEADER_BYTES)) is not None


def _stamp(packet: Packet[VideoStream]) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


class Reach:
    """How far the packets of a source reach."""

    def __init__(self) -> None:
        self._last: int | None = None  # the latest stamp
        self._duration = 0  # of the packet with that stamp
        self._decoded: int | None = None  # the decode stamp of the latest packet
        self._ahead: deque[int] = deque(maxlen=2 * REORDER)  # stamps after that
        self._steps = 0
        self._longer = 0  # how many of them were longer than usual
        self._longest = 0

    def see(self, packet: Packet[VideoStream], step: Fraction) -> None:
        """Take the next packet. `step` is the usual time between two."""
        stamp = _stamp(packet)
        if stamp is None:
            return
        if self._last is None or stamp > self._last:
            self._last, self._duration = stamp, packet.duration or 0
        decoded = packet.dts if packet.dts is not None else stamp
        if self._decoded is not None and decoded > self._decoded:
            self._steps += 1
            self._longer += decoded - self._decoded > step * 3 / 2
            self._longest = max(self._longest, decoded - self._decoded)
        self._decoded = decoded
        self._ahead = deque((one for one in (*self._ahead, stamp) if one > decoded),
                            self._ahead.maxlen)  # fmt: skip

    def lacks(self, promise: Promise) -> int:
        """Return how many pictures are missing at the end: 0, unless it is more than one.

        Where pictures come at uneven times, the end may be earlier by the longest of them.
        """
        if self._last is None or self._decoded is None:
            return 0
        short = promise.end - self._last - max(Fraction(self._duration), promise.step)
        if self._steps >= FEW and self._longer <= self._steps * UNEVEN:
            # No picture is shown before it is decoded, so none is missing up to the decode stamp.
            # Behind it, the picture that others refer to may be there without them.
            missing = round((promise.end - self._decoded) / promise.step) - 1 - len(self._ahead)
            missing = missing if short > -promise.step / 2 else 0
        else:
            missing = round(short / promise.step) if short > self._longest else 0
        return missing if missing > 1 else 0
