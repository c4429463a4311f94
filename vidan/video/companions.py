"""How far the sound and the other streams beside a video reach."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from vidan.video.container import MAX_ERRORS, import_av, open_container

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream

BEFORE_S = 10
"""Seconds before the end of the video at which reading the other streams begins."""


@dataclass(slots=True)
class Companions:
    """The latest ends, in seconds: of all other streams, and of the sound alone.

    `packet` is the longest time, in seconds, of a packet of sound.
    """

    end: Fraction | None = None
    sound: Fraction | None = None
    packet: Fraction = Fraction(0)


def companions(source: str, chosen: int, near: Fraction, timeout: float) -> Companions:
    """Read the ends of all streams but the chosen one, the video, which ends `near` (seconds).

    The file is opened once more, and read from shortly before that place, or from its beginning if
    it can't be sought in.
    """
    av = import_av()
    opened = open_container(source, timeout)
    container = opened.container
    try:
        others = [stream for stream in container.streams if stream.index != chosen]
        for stream in others:
            stream.discard = av.stream.Discard.default
        start = int((near - BEFORE_S) * 10**6)
        if start > (container.start_time or 0):
            with suppress(av.FFmpegError):
                container.seek(start)
        return _latest(av.FFmpegError, container, others)
    finally:
        container.close()


def _latest(errors: type[Exception], container: InputContainer, others: list[Stream]) -> Companions:
    found = Companions()
    before: dict[int, int] = {}
    failed = 0
    while failed < MAX_ERRORS:
        try:
            for packet in container.demux(others):
                failed = 0
                if packet.pts is None or packet.size == 0 or packet.time_base is None:
                    continue
                index = packet.stream.index
                lasts = packet.duration or packet.pts - before.get(index, packet.pts)
                before[index] = packet.pts
                end = Fraction((packet.pts + max(0, lasts)) * packet.time_base)
                found.end = end if found.end is None else max(found.end, end)
                if packet.stream.type == "audio":
                    found.sound = end if found.sound is None else max(found.sound, end)
                    found.packet = max(found.packet, Fraction(lasts * packet.time_base))
            break
        except IndexError:
            break  # PyAV ends so if a stream appeared in the middle of a file
        except errors:
            failed += 1
    return found
