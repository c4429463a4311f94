"""The FrameSource for any container and codec that FFmpeg reads, and for live streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import dropwhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidan.video.batching import Batching
from vidan.video.container import Opened, check_size, local_path, open_container, scheme_of
from vidan.video.counting import Counting, Restart
from vidan.video.decoding import Decoder
from vidan.video.decord import DecordDecoder, import_decord, refuse_unless_exact
from vidan.video.frames import FrameBatch, Size
from vidan.video.notes import Watch, of_end
from vidan.video.optional import look_up
from vidan.video.pictures import Converter
from vidan.video.playlist import playlist
from vidan.video.probe import DEFAULT_RATE, Probe, probe, probe_live
from vidan.video.reading import PictureDecoder, Reading
from vidan.video.resuming import Uncertain, seek_before, walk_to
from vidan.video.sampling import Sampling
from vidan.video.timeline import Timeline
from vidan.video.totals import estimated_total, stored_total

if TYPE_CHECKING:
    from fractions import Fraction

    from av import VideoFrame
    from av.video.codeccontext import VideoCodecContext

Convert = Callable[["VideoFrame", NDArray[np.uint8]], None]

SEEKS = (1, 4, 16)
"""How many key frames before its place a resume begins to decode: further back after damage."""

MAX_BATCH_BYTES = 256 << 20
"""Most bytes of pixels in a batch: several are held at once, so large pictures make it smaller."""


class VideoSource:
    """A FrameSource that decodes only when a batch is asked for.

    With `decord` the pictures come from decord, everything else from PyAV. The lost end of a
    truncated file is a gap if the container says how many frames there were (MP4) or how long it
    was (Matroska, AVI, FLV); otherwise their number is unknown and the frames simply end.
    """

    def __init__(
        self,
        source: str,
        *,
        frame: int,
        pts: int | None,
        sampling: Sampling,
        size: Size | None,
        read_timeout: float,
        decord: bool = False,
        restart: Restart | None = None,
        deinterlace: bool = False,
    ) -> None:
        self._source = source
        self._frame, self._pts = frame, pts
        # A worker of an earlier version resets the checkpoint without the restart point.
        self._restart = restart if restart is not None and restart[1] <= frame else None
        self._sampling = sampling
        self._decord = decord
        self._deinterlace = deinterlace
        self._timeout = read_timeout
        self._lock = threading.Lock()  # held while a batch is decoded
        self._closed = False
        self._watch = Watch(None if scheme_of(source) else local_path(source))
        self._opened: Opened | None = open_container(source, read_timeout)
        self.live = self._opened.live
        try:
            self._probe = self._look()
            check_size(source, self._probe.height, self._probe.width)
            if decord:
                import_decord()
                refuse_unless_exact(source, self._opened, self._probe)
            self.width, self.height = self._probe.width, self._probe.height
            # a user's own detector may raise here
            self._size = size(self.height, self.width) if callable(size) else size
            self._shape = self._size or (self.height, self.width)
            self.fps = float(self._probe.rate) if self._probe.rate else None
            self._codec = self._opened.codec
            self._estimated = look_up(
                "about how many frames there are",
                partial(estimated_total, self._probe, self._opened, sampling),
                None,
            )
            self.frames_total = look_up(
                "the number of frames",
                partial(stored_total, self._probe, self._opened, sampling),
                None,
            )
        except BaseException:
            self._opened.container.close()
            raise

    @property
    def notes(self) -> Sequence[str]:
        """See FrameSource."""
        return tuple(self._probe.notes)

    @property
    def info(self) -> Mapping[str, Any]:
        """See FrameSource."""
        aspect = self._probe.aspect
        return {
            "width": self.width,
            "height": self.height,
            "fps": self.fps and round(self.fps, 3),
            "codec": self._codec,
            "file": self._watch.identity,
            "frames_estimated": self._estimated if self.frames_total is None else None,
            "sample_aspect_ratio": aspect and f"{aspect.numerator}:{aspect.denominator}",
        }

    def _look(self) -> Probe:
        assert self._opened is not None
        return probe_live(self._opened) if self.live else probe(self._source, self._timeout)

    def batches(self, size: int) -> Iterator[FrameBatch]:
        """See FrameSource."""
        steps = self._batches(size)
        last: FrameBatch | None = None
        told = 0
        while True:
            with self._lock:
                batch = None if self._closed else next(steps, None)
                if batch is None and last is not None and not self._closed:
                    batch, last = self._noticed_at_end(last, told), None
                else:
                    last = None if batch is None else _without_frames(batch)
                    told = len(self._probe.notes)
                if self._closed:
                    self._release()
            if batch is None:
                return
            yield batch
            del batch  # it may be large, and the next one takes as much

    def _noticed_at_end(self, last: FrameBatch, told: int) -> FrameBatch | None:
        """Note what happened to the file meanwhile.

        Returns `last`, an empty batch, if there are more notes than the `told` ones.
        """
        path = None if self.live or self._now.network else local_path(self._source)
        notes = self._probe.notes
        notes.add(*self._watch.changes(), *of_end(path, self._now.container.format.name))
        return last if len(notes) > told else None

    def close(self) -> None:
        """See FrameSource. While a thread is in the decoder, it closes the decoder afterwards."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def _release(self) -> None:
        if self._opened is not None:
            self._opened.container.close()
            self._opened = None

    def _batches(self, size: int) -> Iterator[FrameBatch]:
        for begin in self._beginnings():
            try:
                yield from self._read(begin(), size)
                return
            except Uncertain:  # raised only before the first frame
                self._open_again()

    def _beginnings(self) -> Iterator[Callable[[], Reading]]:
        """Yield ways to reach the first frame, the fastest first; the last one always succeeds."""
        if self._frame and not self.live:
            known = self._probe.timed and self._now.indexed and self._probe.start is not None
            if self._pts is not None and known:
                for keys in SEEKS:
                    yield partial(self._seek, self._pts, keys)
            if self._restart is not None and not self._decord:
                yield partial(self._walk, self._restart)
        yield self._live if self.live else self._from_start

    def _seek(self, pts: int, keys: int) -> Reading:
        start = self._probe.start
        assert start is not None
        packets = seek_before(self._now, pts, start, keys)
        resume = (self._frame, pts)
        timeline = Timeline(self._now.time_base, self._sampling, start=start, resume=resume)
        reading = Reading(self._now, packets, timeline, self._is_closed, sought=True)
        reading.counting = Counting(timeline, self._frame, known=self._restart)
        reading.resumed, reading.must_match = True, pts
        return reading

    def _walk(self, restart: Restart) -> Reading:
        reading = self._from_start()
        reading.counting = Counting(reading.timeline, begin=restart)
        reading.walk = walk_to(reading.items(), reading.timeline, restart)
        reading.resumed = True
        return reading

    def _from_start(self) -> Reading:
        timed = self._probe.timed
        tick = self._now.time_base if timed else 1 / (self._probe.rate or DEFAULT_RATE)
        timeline = Timeline(tick, self._sampling)
        reading = Reading(self._now, self._now.packets(), timeline, self._is_closed, timed=timed)
        reading.counting = Counting(timeline)
        if "hls" in self._now.container.format.name:
            timeline.lacks = look_up("the playlist", self._segments, None)
        return reading

    def _segments(self) -> Callable[[Fraction, Fraction], bool] | None:
        """Return what tells whether a segment of a playlist is missing between two times."""
        found = playlist(self._source, self._timeout)
        return None if found is None or found.jumps else found.lacks

    def _live(self) -> Reading:
        """Read a live source: its frames begin with the first key frame."""
        packets = dropwhile(lambda packet: not packet.is_keyframe, self._now.packets())
        now = time.time_ns() // 1_000_000
        epoch = self._pts if self._frame and self._pts is not None else now
        timeline = Timeline(
            self._now.time_base, self._sampling, count=self._frame, first_ms=max(0, now - epoch)
        )
        reading = Reading(self._now, packets, timeline, self._is_closed)
        reading.counting = Counting(timeline, self._frame)
        reading.epoch_ms = epoch
        return reading

    def _read(self, reading: Reading, size: int) -> Iterator[FrameBatch]:
        picture = (self.height, self.width)
        most = MAX_BATCH_BYTES // max(1, self._shape[0] * self._shape[1] * 3)
        size = max(1, min(size, most))
        batching = Batching(self._frame, self._shape, picture, size, self.live)
        reading.pts, reading.restart = self._pts, self._restart
        reading.promise = self._probe.promise
        if self._decord:
            reading.counting = None
            decoder: PictureDecoder = DecordDecoder(self._now, self._source, self._size)
            yield from reading.batches(batching, decoder, _copy, self._probe.total)
            return
        assert reading.counting is not None
        once = self.live or self._now.network
        # A run that decodes everything does so exactly as an undisturbed one: where a file is
        # damaged, even the reuse of memory shows in the pixels.
        decoder = Decoder(
            self._now.stream.codec_context,
            None if once else self._fresh_context,
            reading.counting,
        )
        convert = self._noting_sizes(
            Converter(self._shape, self._probe.turn, deinterlace=self._deinterlace).into
        )
        yield from reading.batches(batching, decoder, convert, self._probe.total)

    def _noting_sizes(self, convert: Convert) -> Convert:
        """Note pictures of another size than the first: they are scaled to that."""
        stored = self._probe.turn.size(self.height, self.width)

        def noting(picture: VideoFrame, place: NDArray[np.uint8]) -> None:
            if (picture.height, picture.width) != stored:
                self._probe.notes.add(
                    f"pictures of {picture.width} x {picture.height} follow those of"
                    f" {stored[1]} x {stored[0]}: they are scaled, and boxes are in pixels of the"
                    " first size"
                )
            convert(picture, place)

        return noting

    def _fresh_context(self) -> VideoCodecContext:
        opened = open_container(self._source, self._timeout)
        context = opened.stream.codec_context
        opened.container.close()
        return context

    @property
    def _now(self) -> Opened:
        assert self._opened is not None
        return self._opened

    def _open_again(self) -> None:
        self._now.container.close()
        self._opened = open_container(self._source, self._timeout)

    def _is_closed(self) -> bool:
        return self._closed


def _without_frames(batch: FrameBatch) -> FrameBatch:
    """Return an empty batch that leaves the checkpoint where this one moves it."""
    none = np.empty(0, np.int64)
    pixels = np.empty((0, *batch.pixels.shape[1:]), np.uint8)
    return replace(batch, indices=none, times=none, pixels=pixels, gaps=())


def _copy(picture: NDArray[np.uint8], place: NDArray[np.uint8]) -> None:
    np.copyto(place, picture)
