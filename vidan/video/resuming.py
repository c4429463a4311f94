"""Finds the packets with which a resumed run has to begin decoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from vidan.video.container import Opened, import_av
from vidan.video.counting import Restart
from vidan.video.decoding import Item

if TYPE_CHECKING:
    from av import Packet, VideoStream

    from vidan.video.timeline import Timeline

MAX_WALKED_PACKETS = 2_000
"""Most packets read before an empty batch shows progress: reading may be slow over a network."""


class Uncertain(Exception):
    """A run that begins here might differ from an undisturbed one. Never leaves this package."""


def seek_before(opened: Opened, pts: int, start: int, keys: int) -> Iterator[Packet[VideoStream]]:
    """Yield packets, beginning `keys` key frames before the last one displayed before `pts`.

    So the decoder decodes at least one whole group of pictures before `pts`, and then is in the
    same state as in an undisturbed run. `start` is the pts of frame 0.
    """
    av = import_av()
    target, before = pts - 1, None
    for _ in range(keys + 1):
        try:
            opened.container.seek(target, stream=opened.stream)
            packet = next(opened.packets(), None)
        except av.FFmpegError as error:
            raise Uncertain from error
        if packet is None or packet.pts is None:
            raise Uncertain
        stamp = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
        if before is not None and stamp >= before:
            if before > start:
                raise Uncertain  # the index is damaged: seeking back does not move back
            break
        target, before = stamp - 1, stamp
    try:
        opened.container.seek(before if before is not None else target, stream=opened.stream)
    except av.FFmpegError as error:
        raise Uncertain from error
    packets = opened.packets()
    first = next(packets, None)
    if first is None or not first.is_keyframe or first.pts is None or first.pts >= pts:
        raise Uncertain
    return chain([first], packets)


def walk_to(items: Iterable[Item], timeline: Timeline, restart: Restart) -> Iterator[Item | None]:
    """Read packets without decoding up to the one of the restart point.

    Yields None every MAX_WALKED_PACKETS packets, and at the end that packet. All packets are
    counted from the start, as in an undisturbed run: so this serves containers without an index,
    joined recordings, and timestamps that do not tell the pictures apart.
    """
    ordinal, number = restart
    for item in items:
        if item.ordinal == ordinal and item.begins:
            yield item
            return
        if item.ordinal >= ordinal:
            break
        if (item.ordinal + 1) % MAX_WALKED_PACKETS == 0:
            timeline.place(number)  # forgets the places before it
            yield None
    raise Uncertain
