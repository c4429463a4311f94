"""Decodes with several threads where a file is sound, and repeatably where it is damaged.

FFmpeg's frame threads give the same pixels in every run only for sound files: how FFmpeg conceals
damage depends on the progress of the other threads. So a picture decoded by threads is released
only after all earlier packets have been decoded without damage. At the first sign of damage the
decoder restarts at an earlier key frame with one thread; after some sound key frames it returns to
several threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vidan.video.container import import_av
from vidan.video.counting import MAX_INSIDE, NOT_NEEDED, Counting
from vidan.video.timeline import REORDER

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.video.codeccontext import VideoCodecContext

    from vidan.video.timeline import Entry

MAX_THREADS = 4
"""Most decoding threads: each holds pictures of its own, and more than four gain little."""

MAX_KEPT_BYTES = 64 << 20
"""Most bytes of encoded packets kept for a restart.

For a source with larger groups of pictures the decoder does not restart.
"""

SOUND_KEY_FRAMES = 4
"""After this many key frames without damage, the decoder uses threads again."""


@dataclass(slots=True, eq=False)
class Item:
    """A packet in the decoder.

    `entry` is its picture, None if that is not to be displayed; a `second` field has that of the
    first. `begins`: it is a key frame, and no second field.
    """

    packet: Packet[VideoStream]
    entry: Entry | None
    ordinal: int = 0
    begins: bool = False
    second: bool = False


@dataclass(slots=True, eq=False)
class Ordinal:
    """What a packet hands on to its picture: how many packets come before it."""

    value: int


@dataclass(slots=True, eq=False)
class _Group:
    """The packet of a key frame and the packets up to the next key frame."""

    items: list[Item] = field(default_factory=list)
    size: int = 0


def threads_here() -> int:
    """Return the number of decoding threads: the cores that this process may use, up to a limit."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MAX_THREADS, here or 1)


class Decoder:
    """Takes items in decode order and yields (place, picture) in display order, lazily.

    A picture that is not to be shown has the place NOT_NEEDED. `fresh` returns a decoder context in
    its initial state, for a restart; None: the decoder never restarts and uses one thread (for a
    live source, or one that can't be opened again). `counting` tells the places.
    """

    def __init__(
        self,
        context: VideoCodecContext,
        fresh: Callable[[], VideoCodecContext] | None,
        counting: Counting,
        threads: int | None = None,
    ) -> None:
        self.damaged = False  # whether damage was seen since the start
        self._errors = import_av().FFmpegError
        self._fresh = fresh
        self._counting = counting
        self._threads = (threads or threads_here()) if fresh else 1
        self._groups: deque[_Group] = deque()
        self._kept = 0
        self._sound_keys = 0
        self._begun = 0
        self._last = -1  # the highest number released
        self._begin(context, self._threads)

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Entry, VideoFrame]]:
        """Yield the pictures of these items, each once its place is known."""
        for item in items:
            self._keep(item)
            yield from self._take(item)
            if self._trusts_again():
                yield from self._restart(self._threads)
        yield from self._take(None)
        yield from self._release(ended=True)

    def _begin(self, context: VideoCodecContext, threads: int) -> None:
        self._context = context
        self._threaded = threads > 1
        context.thread_count = threads
        context.thread_type = "AUTO" if self._threaded else "SLICE"
        context.copy_opaque = True  # a picture tells from which packet it came
        self._begun += 1
        self._key: Item | None = None  # the key frame at which this context began
        self._inside: dict[int, Entry | None] = {}  # pictures by the ordinals of their packets
        self._held: deque[tuple[Entry, VideoFrame]] = deque()

    def _restart(self, threads: int) -> Iterator[tuple[Entry, VideoFrame]]:
        assert self._fresh is not None
        self._begin(self._fresh(), threads)
        self._counting.restarted()
        self._sound_keys = 0
        begun = self._begun
        for item in [item for group in self._groups for item in group.items]:
            yield from self._take(item)
            if self._begun != begun:  # a restart inside `_take` has taken all items
                return

    def _take(self, item: Item | None) -> Iterator[tuple[Entry, VideoFrame]]:
        """Decode one packet; None stands for the end."""
        sound, hurt = self._decode(item)
        if self._threaded:  # a picture that never comes out is damage, too
            sound &= len(self._held) <= REORDER + self._threads
            sound &= item is not None or all(one.left for one in self._counting.inside())
        if not sound:
            self.damaged = True
            self._sound_keys = 0
            if self._threaded and self._groups:
                yield from self._restart(1)
                if item is None:
                    yield from self._take(None)
                return
            for one in hurt:
                self._counting.hurt(one)
        yield from self._release()

    def _decode(self, item: Item | None) -> tuple[bool, list[Entry]]:
        """Decode one packet. Returns (whether it was sound, the pictures with damage)."""
        if item is not None:
            self._enter(item)
        hurt: list[Entry | None] = []
        try:
            frames = self._context.decode(item.packet if item else None)
            sound = item is None or not item.packet.is_corrupt
        except self._errors:
            frames, sound = [], False
        if item is not None and not sound:
            hurt.append(item.entry)
        for frame in frames:
            entry = self._leave(frame)
            if frame.is_corrupt and self._key is not None and not (entry and entry.leads):
                sound = False
                hurt.append(entry)
        return sound, [one for one in hurt if one is not None and not one.leads]

    def _enter(self, item: Item) -> None:
        packet, entry = item.packet, item.entry
        # PyAV keeps objects by their id and forgets them with the first packet or picture that is
        # freed: so this has to be a new object for each packet, not a number that others may hold.
        packet.opaque = Ordinal(item.ordinal)
        if self._key is None and item.begins:
            self._key = item
        self._inside[item.ordinal] = entry
        if len(self._inside) > MAX_INSIDE:
            del self._inside[next(iter(self._inside))]
        if entry is None or item.second:
            return
        key = self._key.entry if self._key is not None else None
        entry.left = False
        entry.leads = self._key is None or (key is not None and entry.rank < key.rank)
        self._counting.entered(entry)

    def _leave(self, frame: VideoFrame) -> Entry | None:
        """Hold a picture until its place is known. Returns what is known of it."""
        ordinal = frame.opaque
        if isinstance(ordinal, Ordinal):
            entry = self._inside.get(ordinal.value)
            if entry is None:
                return None  # not to be displayed
            if entry.left and self._context.name == "mpeg4":  # a packet may hold two pictures
                entry = self._counting.oldest
        else:  # the decoder does not keep it
            same = (one for one in self._counting.inside() if one.pts == frame.pts)
            entry = next(same, self._counting.oldest)
        if entry is None or entry.left:
            return entry
        self._counting.left(entry)
        self._held.append((entry, frame))
        return entry

    def _release(self, ended: bool = False) -> Iterator[tuple[Entry, VideoFrame]]:
        while self._held:
            if not self._threaded and self._counting.sorts(self._held[0][0]):
                self._sort()
            entry, frame = self._held[0]
            if entry.done:
                self._held.popleft()  # given before a restart, or lost
                continue
            place = self._counting.place(
                entry, len(self._held), ended=ended, patient=self._threaded
            )
            if place is None:
                if not ended:
                    return
                place = NOT_NEEDED  # no packet is left that could have this place
            self._held.popleft()
            self._last = max(self._last, place.number or 0)
            yield place, frame

    def _sort(self) -> None:
        """Restore the order of held pictures: damage moves them by a few places."""
        held = list(self._held)
        sound = (at for at, (entry, _) in enumerate(held) if not self._counting.sorts(entry))
        end = next(sound, len(held))
        self._held = deque([*sorted(held[:end], key=lambda one: one[0].rank), *held[end:]])

    def _keep(self, item: Item) -> None:
        """Keep packets from one key frame before the first group with unreleased pictures."""
        if self._fresh is None:
            return
        if item.begins:
            self._sound_keys += 1
            while len(self._groups) >= 3 and self._is_done(self._groups[1]):
                self._kept -= self._groups.popleft().size
            self._groups.append(_Group())
        elif not self._groups:
            return
        self._groups[-1].items.append(item)
        self._groups[-1].size += item.packet.size
        self._kept += item.packet.size
        while self._kept > MAX_KEPT_BYTES and self._groups:
            self._kept -= self._groups.popleft().size

    def _is_done(self, group: _Group) -> bool:
        return all(
            item.entry.done or (item.entry.number is not None and item.entry.number <= self._last)
            for item in group.items
            if item.entry is not None
        )

    def _trusts_again(self) -> bool:
        trusted = self._sound_keys >= SOUND_KEY_FRAMES and len(self._groups) >= 2
        return trusted and not self._threaded and self._threads > 1
