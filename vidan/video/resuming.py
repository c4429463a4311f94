"""Finding the place from which a resumed run has to decode."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vidan.video.container import Opened, import_av
from vidan.video.decoding import MAX_KEPT_BYTES, Item
from vidan.video.timeline import REORDER, Timeline

if TYPE_CHECKING:
    from av import Packet, VideoStream


MAX_WALKED_PACKETS = 2_000
"""Over a network they may take long."""


class Uncertain(Exception):
    """From here the run would not give exactly what an undisturbed one gives. Never leaves this
    package.
    """


def seek_before(opened: Opened, pts: int, start: int, keys: int) -> Iterator[Packet[VideoStream]]:
    """Packets from a key frame on: `keys` key frames before the last one that is shown before
    `pts`.

    At least one whole group of pictures is decoded before the place, so that the decoder is in the
    state that it has in an undisturbed run. `start`: the pts of frame 0.
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
                raise Uncertain  # a damaged index leads nowhere
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
    return _put_back(first, packets)


def _put_back(
    first: Packet[VideoStream], packets: Iterator[Packet[VideoStream]]
) -> Iterator[Packet[VideoStream]]:
    yield first
    yield from packets


def walk_before(
    items: Iterable[Item], timeline: Timeline, number: int
) -> Iterator[list[Item] | None]:
    """Read packets, without decoding, until frame `number` is among them; those to decode first.

    They come last; on the way there is a None every few thousand packets. For containers without an
    index, and for splices: the packets are numbered from the start, as an undisturbed run numbers
    them.
    """
    groups: deque[list[Item]] = deque()
    kept = count = 0
    for walked, item in enumerate(items, 1):
        if walked % MAX_WALKED_PACKETS == 0:
            yield None
        if item.packet.is_keyframe or not groups:
            groups.append([])
            while len(groups) > 3 and count - len(groups[0]) > 2 * REORDER:
                gone = groups.popleft()
                count -= len(gone)
                kept -= sum(one.packet.size for one in gone)
        groups[-1].append(item)
        count += 1
        kept += item.packet.size
        if kept > 2 * MAX_KEPT_BYTES:
            raise Uncertain  # no key frames: what to decode is everything
        while timeline.upcoming and (timeline.upcoming[0].number or 0) < number:
            timeline.upcoming.popleft()
        if timeline.upcoming:
            break
    yield [item for group in groups for item in group]
