"""What is to be known of a source before its frames are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from vidan.errors import RejectedTask
from vidan.video.container import Opened, import_av, open_container, shown
from vidan.video.pictures import Turn
from vidan.video.sampling import Sampling
from vidan.video.timeline import REORDER, Timeline

if TYPE_CHECKING:
    from av import Packet, VideoStream

DEFAULT_RATE = Fraction(25)
MAX_PACKETS = 300
"""In so many packets the first picture has to be found, else size and rotation are the header's."""


@dataclass(frozen=True, slots=True)
class Probe:
    """`height`, `width` as shown; `start`: the pts of frame 0; `timed`: packets carry timestamps
    that tell them apart.
    """

    height: int
    width: int
    turn: Turn
    start: int | None
    timed: bool
    rate: Fraction | None
    """Frames a second."""
    total: int | None
    """Pictures to be shown, as the container's own table of packets has it."""


def probe(source: str, read_timeout: float) -> Probe:
    """Look at the first packets of a source that can be opened again. Raises RejectedTask,
    VidanError.
    """
    opened = open_container(source, read_timeout)
    try:
        return _probe(opened, source)
    finally:
        opened.container.close()


def probe_live(opened: Opened) -> Probe:
    """What the header of a live source says: its packets come only once."""
    context = opened.stream.codec_context
    return Probe(context.height, context.width, Turn(), None, True, _rate(opened), None)


def _probe(opened: Opened, source: str) -> Probe:
    av = import_av()
    context = opened.stream.codec_context
    context.thread_count = 1
    height, width, turn = context.height, context.width, None
    first: list[Packet[VideoStream]] = []
    packets = opened.packets()
    for count, packet in enumerate(packets):
        if len(first) <= REORDER and is_shown(packet, opened.codec):
            first.append(packet)
        if turn is None:
            turn = _turn(av.FFmpegError, opened, packet)
            if turn is None and count == 0:
                # told that this was all, a decoder gives at once what it holds back for its order
                turn = _turn(av.FFmpegError, opened, None)
                if turn is None:
                    context.flush_buffers()
                    turn = _turn(av.FFmpegError, opened, packet)
        if count >= MAX_PACKETS or (turn is not None and len(first) > REORDER):
            break
    if turn is None:
        turn = _turn(av.FFmpegError, opened, None) or Turn()
    if not height or not width:
        raise RejectedTask(
            f"no picture in {shown(source)}", hint="was it copied or downloaded whole?"
        )
    stamps = [packet.pts for packet in first]
    timed = None not in stamps and (len(set(stamps)) == len(stamps) or _rises_again(first))
    start = _start(first, opened) if timed else None
    return Probe(*turn.size(height, width), turn, start, timed, _rate(opened), _total(opened))


def _turn(
    errors: type[Exception], opened: Opened, packet: Packet[VideoStream] | None
) -> Turn | None:
    """That of the first picture which comes out of the decoder, if any. None for a packet: the end,
    which lets out what is still held back.
    """
    try:
        frames = opened.stream.codec_context.decode(packet)
    except errors:
        return None
    return Turn.of(frames[0]) if frames else None


def _rises_again(packets: list[Packet[VideoStream]]) -> bool:
    """Equal timestamps are of two stretches: decode timestamps jump back between them."""
    stretch: set[int | None] = set()
    last: int | None = None
    for packet in packets:
        if last is not None and packet.dts is not None and packet.dts < last:
            stretch.clear()
        last = packet.dts if packet.dts is not None else last
        if packet.pts in stretch:
            return False
        stretch.add(packet.pts)
    return True


def _start(first: list[Packet[VideoStream]], opened: Opened) -> int | None:
    timeline = Timeline(opened.time_base, Sampling())
    for packet in first:
        timeline.add(packet.pts, packet.dts)
    timeline.finish()
    return timeline.upcoming[0].pts if timeline.upcoming else None


def is_shown(packet: Packet[VideoStream], codec: str) -> bool:
    """Whether a packet's picture is to be shown: not cut away by an edit list, not a hidden one of
    VP8.
    """
    if packet.is_discard:
        return False
    if codec in ("vp8", "libvpx"):  # show_frame, RFC 6386 section 9.1
        return bool(memoryview(packet)[0] & 0x10)
    return True


def _rate(opened: Opened) -> Fraction | None:
    stream = opened.stream
    return stream.average_rate or stream.guessed_rate or stream.base_rate


def _total(opened: Opened) -> int | None:
    """From an MP4's table of samples (not a fragmented one's), or a Matroska's statistics."""
    stream = opened.stream
    if "mp4" in opened.container.format.name:
        entries = stream.index_entries
        if stream.frames and stream.frames <= len(entries):
            return sum(1 for entry in entries if entry.size > 0 and not entry.is_discard)
        return None
    if "matroska" in opened.container.format.name:
        noted = stream.metadata.get("NUMBER_OF_FRAMES", "")
        if not re.fullmatch(r"[0-9]{1,18}", noted):
            return None
        # a picture has a byte at least: what claims more is a damaged header
        return int(noted) if int(noted) <= opened.container.size else None
    return None
