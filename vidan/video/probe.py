"""Finds out what has to be known about a source before its frames are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from vidan.errors import RejectedTask
from vidan.video.container import Opened, import_av, nothing_decoded, open_container, shown
from vidan.video.fields import Fields
from vidan.video.notes import Notes, of_streams
from vidan.video.optional import look_up
from vidan.video.pictures import REFUSED_COLORS, Turn
from vidan.video.promise import Promise, promised
from vidan.video.sampling import Sampling
from vidan.video.timeline import REORDER, Timeline

if TYPE_CHECKING:
    from av import Packet, VideoStream

DEFAULT_RATE = Fraction(25)
"""Frames per second of a source without timestamps whose container does not say."""
CLOCK = 1000
"""Ticks per second from which a rate may be a container's clock, not that of pictures."""
MAX_PACKETS = 300
"""Most packets searched for the first picture; without one, size and rotation are the header's."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known about a source. `height` and `width` are those of the displayed picture."""

    height: int
    width: int
    turn: Turn
    start: int | None
    """The pts of frame 0."""
    timed: bool
    """Whether the timestamps of packets tell their pictures apart."""
    rate: Fraction | None
    """Frames per second."""
    total: int | None
    """Number of pictures to be displayed, according to the container's table of packets."""
    promise: Promise | None = None
    """The end of the video, according to the container's header."""
    aspect: Fraction | None = None
    """Width of a displayed pixel divided by its height; None: not said, so square."""
    notes: Notes = field(default_factory=Notes)
    """What is noticed about the source; more notes may be added while it is read."""


def probe(source: str, read_timeout: float) -> Probe:
    """Read the first packets of a source that can be opened again.

    Raises RejectedTask, VidanError.
    """
    opened = open_container(source, read_timeout)
    try:
        return _probe(opened, source, read_timeout)
    finally:
        opened.container.close()


def probe_live(opened: Opened) -> Probe:
    """Return what the header of a live source says: its packets can be read only once."""
    context = opened.stream.codec_context
    rate, aspect = _rate(opened), _aspect(opened, Turn())
    size = context.height, context.width
    return Probe(*size, Turn(), None, True, rate, None, aspect=aspect, notes=_notes(opened))


def _probe(opened: Opened, source: str, timeout: float) -> Probe:
    context = opened.stream.codec_context
    context.thread_count = 1
    height, width = context.height, context.width
    first, turn = _first_packets(opened)
    if not height or not width:
        raise nothing_decoded(source, f"no picture in {shown(source)}")
    _check_colors(source, look_up("the colour matrix", lambda: int(context.colorspace), 0))
    stamps = [packet.pts for packet in first]
    timed = None not in stamps and (len(set(stamps)) == len(stamps) or _rises_again(first))
    start = _start(first, opened) if timed else None
    total = look_up("the number of pictures", lambda: _total(opened), None)
    rate, notes = _rate(opened), _notes(opened)
    promise = look_up(
        "the duration", lambda: promised(opened, source, rate, first, timeout, notes), None
    )
    size, aspect = turn.size(height, width), _aspect(opened, turn)
    return Probe(*size, turn, start, timed, rate, total, promise, aspect, notes)


def _notes(opened: Opened) -> Notes:
    notes, none = Notes(), list[str]()
    notes.add(*look_up("other streams", lambda: of_streams(opened), none))
    return notes


def _aspect(opened: Opened, turn: Turn) -> Fraction | None:
    """Return the aspect ratio of a pixel as it is displayed."""
    aspect = look_up("the aspect ratio", lambda: opened.stream.sample_aspect_ratio, None)
    if not aspect or aspect < 0:
        return None
    return 1 / Fraction(aspect) if turn.transposed else Fraction(aspect)


def _check_colors(source: str, matrix: int) -> None:
    """Raise RejectedTask for a colour matrix that can't be converted: colours would be false."""
    if matrix in REFUSED_COLORS:
        raise RejectedTask(
            f"the colours of {shown(source)} are {REFUSED_COLORS[matrix]},"
            " which can't be converted to RGB",
            hint="convert the video first, e.g. to BT.709",
        )


def _first_packets(opened: Opened) -> tuple[list[Packet[VideoStream]], Turn]:
    """Return the first packets to be displayed, and the turn of the first picture."""
    errors = import_av().FFmpegError
    first: list[Packet[VideoStream]] = []
    turn: Turn | None = None
    fields = fields_of(opened)
    for count, packet in enumerate(opened.packets()):
        counts = is_shown(packet, opened.codec) and not fields.is_second(packet)
        if len(first) <= REORDER and counts:
            first.append(packet)
        if turn is None:
            turn = _turn(errors, opened, packet)
            if turn is None and count == 0:
                turn = _turn_at_once(errors, opened, packet)
        if count >= MAX_PACKETS or (turn is not None and len(first) > REORDER):
            break
    return first, turn or _turn(errors, opened, None) or Turn()


def _turn_at_once(
    errors: type[Exception], opened: Opened, packet: Packet[VideoStream]
) -> Turn | None:
    """Return the turn of the picture that the decoder holds back to reorder it, if any.

    The decoder returns the picture at once when it is told that the source ends here.
    """
    turn = _turn(errors, opened, None)
    if turn is None:
        opened.stream.codec_context.flush_buffers()
        turn = _turn(errors, opened, packet)
    return turn


def _turn(
    errors: type[Exception], opened: Opened, packet: Packet[VideoStream] | None
) -> Turn | None:
    """Decode a packet and return the turn of the first picture that comes out, if any.

    With None for the packet, the source ends: pictures that were held back come out.
    """
    try:
        frames = opened.stream.codec_context.decode(packet)
    except errors:
        return None
    return Turn.of(frames[0]) if frames else None


def _rises_again(packets: list[Packet[VideoStream]]) -> bool:
    """Whether equal timestamps are in different stretches: decode timestamps jump back between."""
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


def fields_of(opened: Opened) -> Fields:
    """Return what tells the second fields among the stream's packets."""
    context = opened.stream.codec_context
    return Fields(opened.codec, look_up("extradata", lambda: context.extradata, None))


def is_shown(packet: Packet[VideoStream], codec: str) -> bool:
    """Whether a packet's picture is to be displayed.

    Pictures that an edit list removes and hidden ones of VP8 are not.
    """
    if packet.is_discard:
        return False
    if codec in ("vp8", "libvpx"):  # show_frame, RFC 6386 section 9.1
        return bool(memoryview(packet)[0] & 0x10)
    return True


def _rate(opened: Opened) -> Fraction | None:
    """Return the pictures a second. A guess that is the clock of the container itself is none."""
    stream = opened.stream
    if average := look_up("the frame rate", lambda: stream.average_rate, None):
        return average
    for look in (lambda: stream.guessed_rate, lambda: stream.base_rate):
        rate = look_up("the frame rate", look, None)
        if rate and (rate < CLOCK or rate * opened.time_base != 1):
            return rate
    return None


def _total(opened: Opened) -> int | None:
    """Return the number of pictures from an MP4's table of samples or a Matroska's statistics.

    A fragmented MP4 has no complete table.
    """
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
        # a picture takes at least a byte, so a header that claims more pictures is damaged
        return int(noted) if int(noted) <= opened.container.size else None
    return None
