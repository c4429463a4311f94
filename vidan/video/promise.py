"""How long a video is according to its header, and how many pictures its end lacks.

An MP4 lists its packets, so its pictures are counted (`vidan.video.probe`). Other containers say
how long they are; a file that was cut off ends earlier. What FFmpeg estimates from the file's size,
or reads from the file's end, is no promise: it would shrink with the file. Where all streams
together have one length, the video may be shorter than that: then the sound tells whether the file
is whole.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vidan.video import headers, transport
from vidan.video.companions import Companions, companions
from vidan.video.container import Opened, local_path
from vidan.video.fragments import fragments
from vidan.video.notes import CUT_OFF, Notes
from vidan.video.optional import look_up
from vidan.video.playlist import playlist
from vidan.video.timeline import REORDER

if TYPE_CHECKING:
    from av import Packet, VideoStream

MAX_STEPS = 100
"""Most different times between two pictures that are counted."""

UNEVEN = Fraction(1, 10)
"""If more than this share of pictures last longer than usual, the video has no even rate."""

FEW = 8
"""Fewest pictures of which the rate can be judged."""

SOUND_S = Fraction(1, 5)
"""Longest packet of sound, in seconds, by which a stream may seem to end early."""

INTERLEAVED_S = 3
"""Most seconds by which the sound of a file may be ahead of its video where both are cut off."""

MOVED = "in another stream of the file"

ALONE = frozenset({"mxf", "mxf_d10", "ivf", "gxf"})
"""Containers whose streams each have a length of their own, or that have one stream."""

TOGETHER = frozenset({"rm", "dash"})
"""Containers whose header says how long the longest stream is."""


def _nothing() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Promise:
    """The end of the last picture and the time between two, in units of the stream's time base.

    `end` is None if only pictures that are listed count: `listed` returns how many of these lie
    beyond the end of the file. The end may be too late by `uncertain`. `others` is for a container
    that promises one end for all its streams: it returns how far the others reach, given where the
    video ends. `pictures` is their number if the header says only that. `by_sound`: the end may be
    that of the last packet of sound.
    """

    end: Fraction | None
    step: Fraction
    uncertain: Fraction = Fraction(0)
    others: Callable[[Fraction], Companions] | None = None
    by_sound: bool = True
    listed: Callable[[], int] = _nothing
    pictures: int | None = None
    tick: Fraction = Fraction(1, 1000)
    reason: str = "cut off"
    """Why the pictures at the end are missing."""


def promised(
    opened: Opened,
    source: str,
    rate: Fraction | None,
    first: Sequence[Packet[VideoStream]],
    timeout: float,
    notes: Notes,
) -> Promise | None:
    """Return what the container promises. None: nothing that could be relied on.

    `first` are the first packets of the file. `notes` gets what is noticed at the file's end.
    """
    if opened.live or not rate or not opened.container.size:
        return None
    tick = Fraction(opened.time_base)
    step = 1 / (Fraction(rate) * tick)
    stamps = [stamp for packet in first if (stamp := _stamp(packet)) is not None]
    start = min(stamps, default=0)
    behind = start - min((packet.dts for packet in first if packet.dts is not None), default=start)
    looks = _Looks(opened, source, tick, step, start, behind, timeout, notes)
    name = opened.container.format.name
    if "hls" in name:
        return looks.hls()
    found = looks.of(name)
    if found is None or found.end is None:
        return found
    # a picture takes at least a byte, so a header that claims more pictures is damaged
    return found if found.end <= opened.container.size * step else None


@dataclass(frozen=True, slots=True)
class _Looks:
    """Looks for what a container promises.

    `start` is the stamp of the first picture, which is shown `behind` ticks after it is decoded.
    """

    opened: Opened
    source: str
    tick: Fraction
    step: Fraction
    start: int
    behind: int
    timeout: float
    notes: Notes

    def of(self, name: str) -> Promise | None:
        """Return the promise of a container with this name, if it is one that promises."""
        stream, head = self.opened.stream, self._head()
        if name == "avi":
            return self._chunks(stream.frames)
        if "matroska" in name:
            return self._matroska(head)
        if "mp4" in name:
            return self._fragmented()
        if name == "mpegts":
            return self._transport()
        if name == "flv":
            return self._together() if headers.FLV_DURATION.search(head) else None
        if name in ("asf", "asf_o"):
            return self._together(headers.asf_seconds(head))
        if name == "apng":
            return self._counted(headers.apng_pictures(head) or 0)
        if name in ALONE:
            return self._at(Fraction(self.start + stream.duration)) if stream.duration else None
        return self._together() if name in TOGETHER else None

    def hls(self) -> Promise | None:
        """Return what a playlist promises: the sum of its segments."""
        found = playlist(self.source, self.timeout)
        if found is None:
            return None
        lost = round(found.lost / self.tick / self.step)
        if found.jumps:
            return Promise(None, self.step, listed=lambda: lost, tick=self.tick)
        promise = self._together(found.seconds + self.start * self.tick)
        if promise is None:
            return None
        uncertain = found.uncertain / self.tick  # segments are cut and measured by the video
        return replace(promise, uncertain=uncertain, by_sound=False, listed=lambda: lost)

    def _counted(self, pictures: int) -> Promise | None:
        if not 0 < pictures <= (self.opened.container.size or 0):
            return None  # a picture takes at least a byte
        return Promise(None, self.step, tick=self.tick, pictures=pictures)

    def _chunks(self, count: int) -> Promise | None:
        """Return the promise of an AVI: its chunks are counted, also empty ones at the beginning.

        If the first pictures seem to be decoded too early, empty chunks follow the first one.
        """
        if not count:
            return None
        known = self.behind <= REORDER * self.step
        return self._at(count * self.step + (self.behind if known else 0))

    def _at(self, end: Fraction) -> Promise:
        return Promise(end, self.step, tick=self.tick)

    def _together(self, seconds: Fraction | None = None) -> Promise | None:
        """Return the promise of an end, in seconds, that all streams have together."""
        container = self.opened.container
        if seconds is None:
            seconds = Fraction(container.duration, 10**6) if container.duration else None
        if seconds is None or seconds <= 0:
            return None
        promise = self._at(seconds / self.tick)
        if len(container.streams) == 1:
            return promise
        index = self.opened.stream.index
        return replace(
            promise, others=lambda near: companions(self.source, index, near, self.timeout)
        )

    def _matroska(self, head: bytes) -> Promise | None:
        """Return the end that the statistics of the stream name, else that of all streams."""
        noted = re.fullmatch(
            r"(\d{1,6}):(\d\d):(\d\d\.\d{1,9})", self.opened.stream.metadata.get("DURATION", "")
        )
        whole = self.opened.container.duration
        if noted is None:
            return self._together() if headers.MATROSKA_DURATION.search(head) else None
        hours, minutes, seconds = noted.groups()
        end = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        if whole and end > Fraction(whole, 10**6) + self.step * self.tick:
            return None  # one of both is damaged
        return self._at(end / self.tick)

    def _fragmented(self) -> Promise | None:
        if self.opened.network:
            return None
        path, track = local_path(self.source), self.opened.stream.id
        found = fragments(path, track)
        if found is None:
            return None
        promise = Promise(None, self.step, tick=self.tick)
        if found.span is not None:
            promise = self._at(self.start + found.span / self.tick)
        elif found.seconds is not None:
            promise = self._together(found.seconds) or promise
        return replace(promise, listed=partial(self._unread, path, track, promise.end is None))

    def _unread(self, path: Path, track: int, alone: bool) -> int:
        """Return how many pictures are listed beyond the end of the file, as it is now.

        `alone`: nothing else tells how long the file should be.
        """
        found = fragments(path, track)
        if found is None:
            return 0
        if alone and found.ends_inside:
            self.notes.add(CUT_OFF)
        return found.unread

    def _transport(self) -> Promise | None:
        """Return the promise of an MPEG-TS: its video may move to another PID."""
        if self.opened.network:
            return None
        path, pid = local_path(self.source), self.opened.stream.id

        def listed() -> int:
            lost, notes = transport.moved(path, pid)
            self.notes.add(*notes)
            return lost

        return Promise(None, self.step, tick=self.tick, listed=listed, reason=MOVED)

    def _head(self) -> bytes:
        return b"" if self.opened.network else headers.head(local_path(self.source))


def _stamp(packet: Packet[VideoStream]) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


class Reach:
    """How far the packets of a source reach."""

    def __init__(self) -> None:
        self._count = 0
        self._last: int | None = None  # the latest stamp
        self._duration = 0  # of the packet with that stamp
        self._decoded: int | None = None  # the decode stamp of the latest packet
        self._ahead: deque[int] = deque(maxlen=2 * REORDER)  # stamps after that
        self._steps: Counter[int] = Counter()  # times between two, as far as they differ
        self._longest = 0

    def see(self, packet: Packet[VideoStream]) -> None:
        """Take the next packet."""
        self._count += 1
        stamp = _stamp(packet)
        if stamp is None:
            return
        if self._last is None or stamp > self._last:
            self._last, self._duration = stamp, packet.duration or 0
        decoded = packet.dts if packet.dts is not None else stamp
        if self._decoded is not None and decoded > self._decoded:
            step = decoded - self._decoded
            if step in self._steps or len(self._steps) < MAX_STEPS:
                self._steps[step] += 1
            self._longest = max(self._longest, step)
        self._decoded = decoded
        self._ahead = deque((one for one in (*self._ahead, stamp) if one > decoded),
                            self._ahead.maxlen)  # fmt: skip

    def lacks(self, promise: Promise) -> int:
        """Return how many pictures are missing at the end: 0, unless it is more than one.

        Where pictures come at uneven times, the end may be earlier by the longest of them.
        """
        listed = look_up("the end of the file", promise.listed, 0)
        if promise.pictures is not None and self._count:
            return max(0, promise.pictures - self._count)
        if promise.end is None or self._last is None or self._decoded is None:
            return listed
        missing = self._short(promise, promise.end)
        if missing > 1 and promise.others is not None:
            missing = self._short_beside(promise, promise.end, promise.others)
        return max(listed, missing if missing > 1 else 0)

    def _short(self, promise: Promise, end: Fraction) -> int:
        """Return how many pictures are missing up to the end."""
        assert self._last is not None and self._decoded is not None
        step, even = self._usual(promise.step)
        if not self._steps and not self._duration and step <= 1:
            return 0  # one picture whose duration no one says: the rate is that of the clock
        short = end - self._last - max(Fraction(self._duration), step)
        if short <= promise.uncertain - step / 2:
            return 0
        if even:
            # No picture is shown before it is decoded, so none is missing up to the decode stamp.
            # Behind it, the picture that others refer to may be there without them.
            return round((end - self._decoded) / step) - 1 - len(self._ahead)
        return round(short / step) if short > self._longest else 0

    def _usual(self, step: Fraction) -> tuple[Fraction, bool]:
        """Return the usual time between two pictures, and whether few last longer.

        It is the given one, which the header says, unless most pictures follow at another one: a
        header may count fields.
        """
        count = self._steps.total()
        if count < FEW:
            return step, False
        usual = self._steps.most_common(1)[0][0]
        if not step / 2 < usual < step * 3 / 2 and self._steps[usual] > count * (1 - UNEVEN):
            step = Fraction(usual)
        longer = sum(times for one, times in self._steps.items() if one > step * 3 / 2)
        return step, longer <= count * UNEVEN

    def _short_beside(
        self, promise: Promise, end: Fraction, others: Callable[[Fraction], Companions]
    ) -> int:
        """Return how many pictures are missing where other streams are promised the same end.

        None is, if the video ends earlier by itself: another stream reaches the end, or the sound
        goes on for long. Otherwise the file was cut off, and the last packet of the sound may end
        after the last picture.
        """
        assert self._last is not None
        here = (self._last + max(Fraction(self._duration), promise.step)) * promise.tick
        found = others(here)
        reaches = end * promise.tick - max(promise.step * promise.tick, SOUND_S)
        if found.end is not None and found.end >= reaches:
            return 0
        if found.sound is not None and found.sound > here + INTERLEAVED_S:
            return 0
        return self._short(promise, end - found.packet / promise.tick if promise.by_sound else end)
