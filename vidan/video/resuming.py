"""Finds the packets with which a resumed run has to begin decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from vidan.video.container import Opened, import_av
from vidan.video.decoding import MAX_KEPT_BYTES, Item
from vidan.video.timeline import REORDER, Timeline

if TYPE_CHECKING:
    from av import Packet, VideoStream


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


def walk_before(
    items: Iterable[Item], timeline: Timeline, number: int
) -> Iterator[list[Item] | None]:
    """Read packets without decoding until frame `number` is among them.

    Yields None every MAX_WALKED_PACKETS packets, and at the end the items with which decoding has
    to begin. This serves containers without an index and joined recordings: packets are numbered
    from the start, as in an undisturbed run.
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
            raise Uncertain  # without key frames everything has to be decoded
        while timeline.upcoming and (timeline.upcoming[0].number or 0) < number:
            timeline.upcoming.popleft()
        if timeline.upcoming:
            break
    yield [item for group in groups for item in group]
