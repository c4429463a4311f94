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
from vidan.video.timeline import REORDER, Entry

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.video.codeccontext import VideoCodecContext

MAX_THREADS = 4
"""Most decoding threads: each holds pictures of its own, and more than four gain little."""

MAX_KEPT_BYTES = 64 << 20
"""Most bytes of encoded packets kept for a restart.

For a source with larger groups of pictures the decoder does not restart.
"""

LATE = 8
"""Most pictures that wait for a missing earlier one: damage disturbs the display order."""

MAX_INSIDE = 4 * REORDER
"""Most packets whose pictures are waited for; pictures of older packets never come out."""

SOUND_KEY_FRAMES = 4
"""After this many key frames without damage, the decoder uses threads again."""


@dataclass(slots=True, eq=False)
class Item:
    """A packet in the decoder. `entry` is None if its picture is not to be displayed."""

    packet: Packet[VideoStream]
    entry: Entry | None
    came_out: bool = False
    released: bool = False


@dataclass(slots=True, eq=False)
class _Group:
    """The packet of a key frame and the packets up to the next key frame."""

    items: list[Item] = field(default_factory=list)
    size: int = 0


def _number(held: tuple[Item, VideoFrame]) -> int:
    entry = held[0].entry
    return entry.number if entry is not None and entry.number is not None else -1


def threads_here() -> int:
    """Return the number of decoding threads: the cores that this process may use, up to a limit."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MAX_THREADS, here or 1)


class Decoder:
    """Takes items in decode order and yields (item, picture) in display order, lazily.

    `fresh` returns a decoder context in its initial state, for a restart; None: the decoder never
    restarts and uses one thread (for a live source, or one without timestamps). `count` is called
    for each picture that comes out. `expected` is the number of the first picture that is needed.
    """

    def __init__(
        self,
        context: VideoCodecContext,
        fresh: Callable[[], VideoCodecContext] | None,
        count: Callable[[Entry], None],
        expected: int = 0,
        threads: int | None = None,
    ) -> None:
        self.damaged = False  # whether damage was seen since the start
        self._errors = import_av().FFmpegError
        self._fresh = fresh
        self._reorders = fresh is not None
        self._count = count
        self._threads = (threads or threads_here()) if fresh else 1
        self._groups: deque[_Group] = deque()
        self._kept = 0
        self._sound_keys = 0
        self._begun = 0
        self._last = expected - 1  # the highest number released
        self._begin(context, self._threads)

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Item, VideoFrame]]:
        """Yield the pictures of these items, each once its number is known."""
        for item in items:
            self._keep(item)
            yield from self._take(item)
            if self._trusts_again():
                yield from self._restart(self._threads)
        yield from self._take(None)
        yield from self._release(everything=True)

    def _begin(self, context: VideoCodecContext, threads: int) -> None:
        self._context = context
        self._threaded = threads > 1
        context.thread_count = threads
        context.thread_type = "AUTO" if self._threaded else "SLICE"
        self._begun += 1
        self._first_key: int | None = None  # pts of the key frame at which this context began
        self._inside: dict[int | None, deque[Item]] = {}  # packets inside, by pts
        self._order: deque[Item] = deque()  # the same in decode order, with threads only
        self._held: deque[tuple[Item, VideoFrame]] = deque()

    def _restart(self, threads: int) -> Iterator[tuple[Item, VideoFrame]]:
        assert self._fresh is not None
        self._begin(self._fresh(), threads)
        self._sound_keys = 0
        begun = self._begun
        for item in [item for group in self._groups for item in group.items]:
            item.came_out = False
            yield from self._take(item)
            if self._begun != begun:  # a restart inside `_take` has taken all items
                return

    def _take(self, item: Item | None) -> Iterator[tuple[Item, VideoFrame]]:
        """Decode one packet; None stands for the end."""
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
        if self._threaded:  # a picture that never comes out is damage, too
            sound &= len(self._held) <= REORDER + self._threads
            sound &= item is not None or all(one.came_out for one in self._order)
        if not sound:
            self.damaged = True
            self._sound_keys = 0
            if self._threaded and self._groups:
                yield from self._restart(1)
                if item is None:
                    yield from self._take(None)
                return
        yield from self._release()

    def _leads(self, pts: int | None) -> bool:
        """Whether a picture is displayed before the key frame at which this context began.

        It may then refer to pictures that this context has not decoded.
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
            return  # not to be displayed
        item = waiting.popleft()
        if not waiting:
            del self._inside[frame.pts]
        item.came_out = True
        assert item.entry is not None
        self._count(item.entry)
        self._held.append((item, frame))

    def _release(self, everything: bool = False) -> Iterator[tuple[Item, VideoFrame]]:
        while self._held:
            if not self._threaded:
                self._sort()
            item, frame = self._held[0]
            assert item.entry is not None
            number = item.entry.number
            if not everything and (number is None or self._in_doubt(item.entry)):
                return
            self._held.popleft()
            if not item.released:
                item.released = True
                self._last = max(self._last, number or 0)
                yield item, frame

    def _sort(self) -> None:
        """Restore the order of held pictures: damage moves them by a few places."""
        numbers = [item.entry.number for item, _ in self._held if item.entry]
        if None not in numbers and numbers != sorted(numbers):  # type: ignore[type-var]
            self._held = deque(sorted(self._held, key=_number))

    def _in_doubt(self, entry: Entry) -> bool:
        """Whether an earlier picture has not come out yet: it may be damaged, or late."""
        if not self._threaded:
            missing = entry.number is not None and entry.number > self._last + 1
            return self._reorders and missing and len(self._held) <= LATE
        while self._order and self._order[0].came_out:
            self._order.popleft()
        first = self._order[0].entry if self._order else None
        return first is not None and first.order < entry.order

    def _keep(self, item: Item) -> None:
        """Keep packets from one key frame before the first group with unreleased pictures."""
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
            item.released or (item.entry.number is not None and item.entry.number <= self._last)
            for item in group.items
            if item.entry is not None
        )

    def _trusts_again(self) -> bool:
        trusted = self._sound_keys >= SOUND_KEY_FRAMES and len(self._groups) >= 2
        return trusted and not self._threaded and self._threads > 1
