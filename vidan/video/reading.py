"""One way through a source, from some packet on to its end: packets, pictures, batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from vidan.errors import RejectedTask
from vidan.video.batching import Batching
from vidan.video.container import Opened, shown
from vidan.video.decoding import Item
from vidan.video.frames import FrameBatch
from vidan.video.probe import is_shown
from vidan.video.resuming import Uncertain

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoStream
    from numpy.typing import NDArray

    from vidan.video.counting import Count
    from vidan.video.timeline import Timeline


MAX_SKIPPED = 250
"""So many pictures before the place, and an empty batch says that one is on the way there."""


class PictureDecoder(Protocol):
    """Items in decode order go in, (item, picture) in the order of showing come out, lazily."""

    damaged: bool

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]: ...


class Reading:
    """Packets are numbered by the timeline, decoded, converted and put together in batches.

    `resumed`: this run has not decoded everything before its first frame: Uncertain is raised
    before the first frame if it can't be exact. `must_match`: the pts that the first frame has to
    have then. `walk` finds the packets to begin with, and puts them back. `pts`: the timestamp with
    which the first frame was asked for.
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
        self.epoch_ms: int | None = None  # of a live source: when its frame 0 came
        self._packets = packets
        self._closed = closed
        self._ahead: deque[Item] = deque()  # read to know the next frame's timestamp
        self._ended = False

    def items(self) -> Iterator[Item]:
        """The packets still to come."""
        while True:
            item = self._ahead.popleft() if self._ahead else self._read()
            if item is None:
                return
            yield item

    def put_back(self, items: Iterable[Item]) -> None:
        """Packets already read, to come (again) before all others."""
        self._ahead.extendleft(reversed(list(items)))

    def _read(self) -> Item | None:
        packet = None if self._ended or self._closed() else next(self._packets, None)
        if packet is None:
            self._ended = True
            self.timeline.finish()
            return None
        shows = is_shown(packet, self.opened.codec)
        return Item(packet, self.timeline.add(packet.pts, packet.dts) if shows else None)

    def batches(
        self,
        batching: Batching,
        decoder: PictureDecoder,
        convert: Callable[[Any, NDArray[np.uint8]], None],
        total: int | None,
    ) -> Iterator[FrameBatch]:
        """To the end. Raises RejectedTask if no frame can be decoded, Uncertain, VidanError.

        On a long way to the first frame there are empty batches that move nothing.
        """
        began, yielded, skipped = batching.expected, False, 0
        yield from self._walked(batching)
        for item, picture in decoder.pictures(self.items()):
            entry = item.entry
            if entry is None or entry.number is None or entry.number < batching.expected:
                skipped += 1  # before the place, or out of order after damage
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
        if self._closed():
            return
        if batching.expected == began:
            self._check(decoder, began)
            if began == 0:
                raise RejectedTask(
                    f"no frame of {shown(str(self.opened.container.name))} can be decoded",
                    hint="was it copied or downloaded whole?",
                )
        batching.lose(self.timeline.count, self._reason(decoder, batching.expected))
        batching.lose(total or 0, "cut off")
        if batching.begun or not yielded:
            yield batching.take(self._next_pts(batching.expected))

    def _walked(self, batching: Batching) -> Iterator[FrameBatch]:
        for found in self.walk:
            if found is None:
                yield batching.take(self.pts)
            else:
                self.put_back(found)

    def _check(self, decoder: PictureDecoder, began: int) -> None:
        """Before the first frame of a resumed run: is it surely the one that an undisturbed run has
        there?
        """
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
