"""Reads a source from a given packet to its end: packets, pictures, batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from vidan.video.batching import Batching
from vidan.video.container import Opened, nothing_decoded, shown
from vidan.video.decoding import Item
from vidan.video.frames import FrameBatch
from vidan.video.probe import is_shown
from vidan.video.promise import Promise, Reach
from vidan.video.resuming import Uncertain

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoStream
    from numpy.typing import NDArray

    from vidan.video.counting import Count
    from vidan.video.timeline import Timeline


MAX_SKIPPED = 250
"""After this many pictures before the first frame, an empty batch shows progress."""


class PictureDecoder(Protocol):
    """Takes items in decode order and yields (item, picture) in display order, lazily."""

    damaged: bool
    """Whether damage was seen since the start."""

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]: ...


class Reading:
    """Numbers packets by the timeline, decodes and converts pictures, and collects batches.

    `resumed`: this run does not decode everything before its first frame, so it raises Uncertain
    before the first frame if that may not be exact. `must_match` is the pts that the first frame
    then must have. `walk` finds the packets with which to begin. `pts` is the timestamp with which
    the first frame was asked for. `epoch_ms` is the Unix time of frame 0 of a live source.
    `promise` says where the source should end.
    """

    def __init__(
        self,
        opened: Opened,
        packets: Iterator[Packet[VideoStream]],
        timeline: Timeline | Count,
        closed: Callable[[], bool],
    ) -> None:
        self.opened = opened
        self.timeline = timeline
        self.must_match: int | None = None
        self.resumed = False
        self.walk: Iterator[list[Item] | None] = iter(())
        self.pts: int | None = None
        self.epoch_ms: int | None = None
        self.promise: Promise | None = None
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

    def read_next(self, items: Iterable[Item]) -> None:
        """Make `items`, which were already read, the next ones."""
        self._ahead.extendleft(reversed(list(items)))

    def _read(self) -> Item | None:
        packet = None if self._ended or self._closed() else next(self._packets, None)
        if packet is None:
            self._ended = True
            self.timeline.finish()
            return None
        if self.promise is not None:
            self._reach.see(packet)
        shows = is_shown(packet, self.opened.codec)
        return Item(packet, self.timeline.add(packet.pts, packet.dts) if shows else None)

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
        for item, picture in decoder.pictures(self.items()):
            entry = item.entry
            if entry is None or entry.number is None or entry.number < batching.expected:
                skipped += 1  # before the first frame, or out of order after damage
                if batching.expected == began and skipped % MAX_SKIPPED == 0:
                    yield batching.take(self.pts)
                continue
            if batching.expected == began:
                self._check(decoder, began)
            place = batching.arrive(entry, self._reason(decoder, batching.expected))
            if place is not None:
                convert(picture, place)
            if batching.ready:
                yielded = True
                yield batching.take(self._next_pts(batching.expected))
        if not self._closed():
            yield from self._end(batching, decoder, began, total, yielded)

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
            self._check(decoder, began)
            if began == 0:
                name = str(self.opened.container.name)
                raise nothing_decoded(name, f"no frame of {shown(name)} can be decoded")
        batching.lose(self.timeline.count, self._reason(decoder, batching.expected))
        if self.promise is not None and total is None:
            total = self.timeline.count + self._reach.lacks(self.promise)
        batching.lose(total or 0, self.promise.reason if self.promise else "cut off")
        if batching.begun or not yielded:
            yield batching.take(self._next_pts(batching.expected))

    def _walked(self, batching: Batching) -> Iterator[FrameBatch]:
        for found in self.walk:
            if found is None:
                yield batching.take(self.pts)
            else:
                self.read_next(found)

    def _check(self, decoder: PictureDecoder, began: int) -> None:
        """Raise Uncertain unless the first frame is surely that of an undisturbed run."""
        if not self.resumed:
            return
        if decoder.damaged:
            raise Uncertain
        if self.must_match is not None:
            first = self.timeline.upcoming[0] if self.timeline.upcoming else None
            if first is None or (first.number, first.pts) != (began, self.must_match):
                raise Uncertain

    def _reason(self, decoder: PictureDecoder, expected: int) -> str:
        if expected == 0 and not decoder.damaged:
            return "before the first key frame"
        return "damaged"

    def _next_pts(self, expected: int) -> int | None:
        upcoming = self.timeline.upcoming
        while upcoming and (upcoming[0].number or 0) < expected:
            upcoming.popleft()
        if self.opened.live:
            return self.epoch_ms
        if not self.opened.indexed:
            return None
        while not upcoming and (item := self._read()) is not None:
            self._ahead.append(item)
        return upcoming[0].pts if upcoming and upcoming[0].seekable else None
