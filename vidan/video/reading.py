"""Reads a source from a given packet to its end: packets, pictures, batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from vidan.video.batching import Batching
from vidan.video.container import Opened, nothing_decoded, shown
from vidan.video.counting import Counting, Restart
from vidan.video.decoding import Item
from vidan.video.frames import FrameBatch
from vidan.video.probe import fields_of, is_shown
from vidan.video.promise import Promise, Reach
from vidan.video.resuming import Uncertain

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoStream
    from numpy.typing import NDArray

    from vidan.video.timeline import Entry, Timeline


MAX_SKIPPED = 250
"""After this many pictures before the first frame, an empty batch shows progress."""


class PictureDecoder(Protocol):
    """Takes items in decode order and yields (place, picture) in display order, lazily."""

    damaged: bool
    """Whether damage was seen since the start."""

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Entry, Any]]: ...


class Reading:
    """Counts packets by the timeline, decodes and converts pictures, and collects batches.

    `counting` gives pictures their places; without one, the decoder has done so. `timed`: packets
    have timestamps. `sought`: the first packet is not that of the source. `resumed`: this run does
    not decode everything before its first frame, so it raises Uncertain before the first frame if
    that may not be exact. `must_match` is the pts that the first frame then must have. `walk` finds
    the packet with which to begin. `pts` and `restart` are those with which the first frame was
    asked for. `epoch_ms` is the Unix time of frame 0 of a live source. `promise` says where the
    source should end.
    """

    def __init__(
        self,
        opened: Opened,
        packets: Iterator[Packet[VideoStream]],
        timeline: Timeline,
        closed: Callable[[], bool],
        *,
        timed: bool = True,
        sought: bool = False,
    ) -> None:
        self.opened = opened
        self.timeline = timeline
        self.counting: Counting | None = None
        self.must_match: int | None = None
        self.resumed = False
        self.walk: Iterator[Item | None] = iter(())
        self.pts: int | None = None
        self.restart: Restart | None = None
        self.epoch_ms: int | None = None
        self.promise: Promise | None = None
        self._timed = timed
        self._sought = sought
        self._ordinals = self._pictures = 0
        self._fields = fields_of(opened)
        self._last: Entry | None = None  # the picture of the last packet
        self._reach = Reach()
        self._packets = packets
        self._closed = closed
        self._ahead: deque[Item] = deque()  # already read, to be decoded next
        self._ended = False

    def items(self) -> Iterator[Item]:
        """Yield the remaining packets."""
        while True:
            item = self._ahead.popleft() if self._ahead else self._read()
            if item is None:
                return
            yield item

    def _read(self) -> Item | None:
        packet = None if self._ended or self._closed() else next(self._packets, None)
        if packet is None:
            self._ended = True
            self.timeline.finish()
            return None
        if self.promise is not None:
            self._reach.see(packet)
        ordinal = self._ordinals
        self._ordinals += 1
        if not is_shown(packet, self.opened.codec):
            self.timeline.see(packet.pts, packet.dts)
            return Item(packet, None, ordinal)
        if self._fields.is_second(packet) and self._last is not None:
            return Item(packet, self._last, ordinal, second=True)
        key = packet.is_keyframe
        pts, dts = (packet.pts, packet.dts) if self._timed else (self._pictures,) * 2
        self._pictures += 1
        place = -1 if self._sought else ordinal
        self._last = self.timeline.add(pts, dts, key=key, ordinal=place)
        return Item(packet, self._last, ordinal, begins=key)

    def batches(
        self,
        batching: Batching,
        decoder: PictureDecoder,
        convert: Callable[[Any, NDArray[np.uint8]], None],
        total: int | None,
    ) -> Iterator[FrameBatch]:
        """Yield all batches. Raises RejectedTask if no frame can be decoded, Uncertain, VidanError.

        If the first frame is far away, empty batches that leave the checkpoint unchanged come
        first.
        """
        began, yielded, skipped = batching.expected, False, 0
        yield from self._walked(batching)
        for place, picture in decoder.pictures(self.items()):
            if place.number is None or place.number < batching.expected:
                skipped += 1  # before the first frame, or out of order after damage
                if self._lacks_key() and skipped > MAX_SKIPPED:
                    raise Uncertain
                if batching.expected == began and skipped % MAX_SKIPPED == 0:
                    yield batching.take(self.pts, self.restart)
                continue
            if batching.expected == began:
                self._check(decoder, began, place)
            reason = self._reason(decoder, batching.expected, place.number)
            pixels = batching.arrive(place, reason)
            if pixels is not None:
                convert(picture, pixels)
            if batching.ready:
                yielded = True
                yield self._take(batching)
        if not self._closed():
            yield from self._end(batching, decoder, began, total, yielded)

    def _take(self, batching: Batching) -> FrameBatch:
        frame = batching.expected
        restart = self.counting.restart(frame) if self.counting is not None else None
        return batching.take(self._next_pts(frame), restart)

    def _end(
        self,
        batching: Batching,
        decoder: PictureDecoder,
        began: int,
        total: int | None,
        yielded: bool,
    ) -> Iterator[FrameBatch]:
        """Yield the last batch, with a gap for the frames that are missing at the end."""
        if batching.expected == began:
            self._check(decoder, began, None)
            if began == 0:
                name = str(self.opened.container.name)
                raise nothing_decoded(name, f"no frame of {shown(name)} can be decoded")
        count = self.timeline.count
        batching.lose(count, self._reason(decoder, batching.expected, count))
        if self.promise is not None and total is None:
            total = count + self._reach.lacks(self.promise)
        batching.lose(total or 0, self.promise.reason if self.promise else "cut off")
        if batching.begun or not yielded:
            yield self._take(batching)

    def _walked(self, batching: Batching) -> Iterator[FrameBatch]:
        for found in self.walk:
            if found is None:
                yield batching.take(self.pts, self.restart)
            else:
                self._ahead.appendleft(found)

    def _lacks_key(self) -> bool:
        return self.counting is not None and self.counting.lacks_key()

    def _check(self, decoder: PictureDecoder, began: int, first: Entry | None) -> None:
        """Raise Uncertain unless the first frame is surely that of an undisturbed run."""
        if not self.resumed:
            return
        if decoder.damaged or self._lacks_key():
            raise Uncertain
        if self.must_match is not None:
            if first is None or (first.number, first.pts) != (began, self.must_match):
                raise Uncertain
            if self.counting is not None and not self.counting.rises:
                raise Uncertain

    def _reason(self, decoder: PictureDecoder, expected: int, until: int) -> str:
        if expected == 0 and not decoder.damaged:
            return "before the first key frame"
        if any(expected <= hole.start < until for hole in self.timeline.holes):
            return "segment missing"
        uncertain = self.counting.uncertain if self.counting is not None else set()
        if any(expected <= number < until for number in uncertain):
            return "damaged, place uncertain"
        return "damaged"

    def _next_pts(self, expected: int) -> int | None:
        if self.opened.live:
            return self.epoch_ms
        if not self.opened.indexed or (self.counting is not None and not self.counting.rises):
            return None
        while (place := self.timeline.place(expected)) is None:
            if (item := self._read()) is None:
                return None
            self._ahead.append(item)
        return place.pts if place.seekable else None
