"""Decoding with several threads where a file is sound, and repeatably where it is damaged.

FFmpeg's frame threads give the same pixels in every run only as long as nothing is wrong: how a
damaged picture is patched up depends on how far the other threads have come. So a picture decoded
by threads is let go only when all packets before its own came out sound. At the first sign of
damage the decoder begins anew, with one thread, a key frame before; after some sound key frames it
goes back to threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vidan.video.container import import_av
from vidan.video.timeline import REORDER, Entry

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.video.codeccontext import VideoCodecContext

MAX_THREADS = 4
"""Each frame thread holds pictures of its own; more than four gain little and cost memory."""

MAX_KEPT_BYTES = 64 << 20
"""Of encoded packets, kept to begin anew. A source with longer groups of pictures is not begun
anew.
"""

LATE = 8
"""So many pictures wait for one that is missing before them: damage upsets the order of showing."""

MAX_INSIDE = 4 * REORDER
"""A picture that has not come out of the decoder so many packets later never will."""

SOUND_KEY_FRAMES = 4
"""So many key frames without damage, and the decoder trusts threads again."""


@dataclass(slots=True, eq=False)
class Item:
    """A packet on its way through the decoder. `entry`: None if its picture is not to be shown."""

    packet: Packet[VideoStream]
    entry: Entry | None
    came_out: bool = False
    let_go: bool = False


@dataclass(slots=True, eq=False)
class _Group:
    """A key frame's packet and those up to the next one."""

    items: list[Item] = field(default_factory=list)
    size: int = 0


def _number(held: tuple[Item, VideoFrame]) -> int:
    entry = held[0].entry
    return entry.number if entry is not None and entry.number is not None else -1


def threads_here() -> int:
    """How many threads decode: the processors that this process may use, few at most."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MAX_THREADS, here or 1)


class Decoder:
    """Items in decode order go in, (item, picture) in the order of showing come out, lazily.

    `fresh` makes a decoder context that has seen nothing; None: there is only the one, of one
    thread (a live source, or one without timestamps). `count` is called for each picture that comes
    out. `expected`: the number of the first picture that matters.
    """

    def __init__(
        self,
        context: VideoCodecContext,
        fresh: Callable[[], VideoCodecContext] | None,
        count: Callable[[Entry], None],
        expected: int = 0,
        threads: int | None = None,
    ) -> None:
        self.damaged = False  # since the start
        self._errors = import_av().FFmpegError
        self._fresh = fresh
        self._reorders = fresh is not None
        self._count = count
        self._threads = (threads or threads_here()) if fresh else 1
        self._groups: deque[_Group] = deque()
        self._kept = 0
        self._sound_keys = 0
        self._begun = 0
        self._last = expected - 1  # the highest number let go
        self._begin(context, self._threads)

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Item, VideoFrame]]:
        """All pictures of these items. Numbers may come late: a picture waits for its own."""
        for item in items:
            self._keep(item)
            yield from self._take(item)
            if self._trusts_again():
                yield from self._begin_anew(self._threads)
        yield from self._take(None)
        yield from self._let_go(everything=True)

    def _begin(self, context: VideoCodecContext, threads: int) -> None:
        self._context = context
        self._threaded = threads > 1
        context.thread_count = threads
        context.thread_type = "AUTO" if self._threaded else "SLICE"
        self._begun += 1
        self._first_key: int | None = None  # pts of the key frame from which this context decodes
        self._inside: dict[int | None, deque[Item]] = {}  # by pts: in the decoder, in order
        self._order: deque[Item] = deque()  # the same, in the order of decoding; of threads
        self._held: deque[tuple[Item, VideoFrame]] = deque()

    def _begin_anew(self, threads: int) -> Iterator[tuple[Item, VideoFrame]]:
        assert self._fresh is not None
        self._begin(self._fresh(), threads)
        self._sound_keys = 0
        begun = self._begun
        for item in [item for group in self._groups for item in group.items]:
            item.came_out = False
            yield from self._take(item)
            if self._begun != begun:  # once more, inside: it has taken all of them
                return

    def _take(self, item: Item | None) -> Iterator[tuple[Item, VideoFrame]]:
        """One packet, or None: the end."""
        sound = True
        try:
            frames = self._context.decode(item.packet if item else None)
        except self._errors:
            frames, sound = [], False
        if item is not None:
            sound &= not item.packet.is_corrupt
            self._enter(item)
        for frame in frames:
            sound &= not frame.is_corrupt or self._leads(frame.pts)
            self._leave(frame)
        if self._threaded:  # a picture that never comes is damage too
            sound &= len(self._held) <= REORDER + self._threads
            sound &= item is not None or all(one.came_out for one in self._order)
        if not sound:
            self.damaged = True
            self._sound_keys = 0
            if self._threaded and self._groups:
                yield from self._begin_anew(1)
                if item is None:
                    yield from self._take(None)
                return
        yield from self._let_go()

    def _leads(self, pts: int | None) -> bool:
        """Shown before the key frame from which this context decodes, so it may lack what it refers
        to.
        """
        return self._first_key is None or (pts is not None and pts < self._first_key)

    def _enter(self, item: Item) -> None:
        packet = item.packet
        if self._first_key is None and packet.is_keyframe:
            self._first_key = packet.pts
        if item.entry is not None:
            self._inside.setdefault(packet.pts, deque(maxlen=MAX_INSIDE)).append(item)
            if len(self._inside) > MAX_INSIDE:
                del self._inside[next(iter(self._inside))]
            if self._threaded and not self._leads(packet.pts):
                self._order.append(item)

    def _leave(self, frame: VideoFrame) -> None:
        waiting = self._inside.get(frame.pts)
        if not waiting:
            return  # not to be shown
        item = waiting.popleft()
        if not waiting:
            del self._inside[frame.pts]
        item.came_out = True
        assert item.entry is not None
        self._count(item.entry)
        self._held.append((item, frame))

    def _let_go(self, everything: bool = False) -> Iterator[tuple[Item, VideoFrame]]:
        while self._held:
            if not self._threaded:
                self._sort()
            item, frame = self._held[0]
            assert item.entry is not None
            number = item.entry.number
            if not everything and (number is None or self._in_doubt(item.entry)):
                return
            self._held.popleft()
            if not item.let_go:
                item.let_go = True
                self._last = max(self._last, number or 0)
                yield item, frame

    def _sort(self) -> None:
        """Damage upsets the order in which pictures come out, by a few."""
        numbers = [item.entry.number for item, _ in self._held if item.entry]
        if None not in numbers and numbers != sorted(numbers):  # type: ignore[type-var]
            self._held = deque(sorted(self._held, key=_number))

    def _in_doubt(self, entry: Entry) -> bool:
        """A packet before this one's has not come out yet: it may prove damaged, or come late."""
        if not self._threaded:
            missing = entry.number is not None and entry.number > self._last + 1
            return self._reorders and missing and len(self._held) <= LATE
        while self._order and self._order[0].came_out:
            self._order.popleft()
        first = self._order[0].entry if self._order else None
        return first is not None and first.order < entry.order

    def _keep(self, item: Item) -> None:
        """Keep packets from the key frame before the group whose pictures are not all let go."""
        if self._fresh is None:
            return
        if item.packet.is_keyframe:
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
            item.let_go or (item.entry.number is not None and item.entry.number <= self._last)
            for item in group.items
            if item.entry is not None
        )

    def _trusts_again(self) -> bool:
        trusted = self._sound_keys >= SOUND_KEY_FRAMES and len(self._groups) >= 2
        return trusted and not self._threaded and self._threads > 1
