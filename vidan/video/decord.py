"""Decodes with decord, for MP4, MOV, MKV and WebM.

decord decodes ahead without a bound and counts frames in its own way. So it never sees the file:
PyAV reads the packets, which get the same numbers as for PyAV, and decord gets short Matroska files
of whole groups of pictures, made in memory. Sources that decord does not decode exactly are
refused with the reason.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidan.errors import MissingExtra, RejectedTask
from vidan.video.container import Opened, import_av, local_path, scheme_of, shown
from vidan.video.decoding import Item
from vidan.video.probe import Probe

if TYPE_CHECKING:
    from av import VideoStream

    from vidan.video.timeline import Entry

MIN_SEGMENT = 32
"""Fewest pictures for which a decord reader is opened: opening one is slow."""

MAX_AHEAD_BYTES = 192 << 20
"""Most bytes of decoded pictures that decord may hold."""

MAX_SECONDS = 10**7
"""Longest file for decord, in seconds: longer ones kill the process."""

INSTEAD = "decoder=pyav reads it"


def import_decord() -> Any:
    """Load decord when the first source is opened with it. Raises MissingExtra."""
    try:
        import decord
    except ImportError as error:
        raise MissingExtra(
            f"decord can't be loaded ({error})",
            hint='pip install "vidan[worker]" (x86-64 only), or decoder=pyav',
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def refuse_unless_exact(source: str, opened: Opened, probe: Probe) -> None:
    """Raise RejectedTask, with the reason, for a source that decord does not decode exactly."""

    def refuse(what: str) -> RejectedTask:
        return RejectedTask(f"decord can't decode {shown(source)}: {what}", hint=INSTEAD)

    if scheme_of(source) or opened.live:
        raise refuse("it reads files only")
    if not opened.indexed:
        raise refuse(
            f"it is exact for MP4, MOV, MKV and WebM only, not {opened.container.format.name}"
        )
    if opened.stream.codec.canonical_name == "av1":
        raise refuse("it does not know AV1")
    if not probe.timed:
        raise refuse("its packets have no timestamps of their own")
    if probe.turn.turns:
        raise refuse("it does not rotate pictures by their display matrix")
    entries = opened.stream.index_entries
    if any(entry.is_discard for entry in entries):
        raise refuse("it does not respect edit lists")
    if "mp4" in opened.container.format.name and len(entries):
        last = entries[-1]
        if last.pos + last.size > local_path(source).stat().st_size:
            raise refuse("the file is cut off")


class DecordDecoder:
    """Takes items in decode order and yields (place, picture) in display order, lazily.

    Pictures are (H, W, 3) uint8 RGB of `size`, or of the stream's own size.
    """

    damaged = False  # a damaged source is refused

    def __init__(self, opened: Opened, source: str, size: tuple[int, int] | None) -> None:
        self._decord = import_decord()
        base = self._decord._ffi.base
        self._errors = (
            base.DECORDError,
            base.DECORDLimitReachedError,
            RuntimeError,
            StopIteration,
            AssertionError,
            UnicodeDecodeError,  # its messages about damage may contain bytes of the file
        )
        self._stream = opened.stream
        self._name = shown(source)
        self._size = size
        context = opened.stream.codec_context
        height, width = self._shape = size or (context.height, context.width)
        self._most = max(16, MAX_AHEAD_BYTES // max(1, height * width * 3))

    def pictures(self, items: Iterable[Item]) -> Iterator[tuple[Entry, NDArray[np.uint8]]]:
        """Yield the pictures of these items. Raises RejectedTask at the first sign of damage."""
        for segment in segments(items):
            if any(item.second for item in segment):
                raise self._refuse("its pictures are field-coded: each field is a packet")
            yield from self._segment(segment)

    def _segment(self, segment: list[Item]) -> Iterator[tuple[Entry, NDArray[np.uint8]]]:
        """Decode a segment in parts that decord may hold, each from the segment's key frame."""
        ranked = sorted(segment, key=_pts)
        place = {id(item): number for number, item in enumerate(segment)}
        last = -1  # the place, in decode order, of the last packet that the part needs
        for first in range(0, len(ranked), self._most):
            part = ranked[first : first + self._most]
            last = max(last, *(place[id(item)] for item in part))
            pictures = self._decode(segment[: last + 1], first, len(part))
            for item, picture in zip(part, pictures, strict=True):
                if item.entry is not None:
                    yield item.entry, picture

    def _decode(self, items: list[Item], first: int, count: int) -> Iterator[NDArray[np.uint8]]:
        file = self._packed(items)
        try:
            reader = self._decord.VideoReader(
                io.BytesIO(file),
                ctx=self._decord.cpu(0),
                width=self._shape[1] if self._size else -1,
                height=self._shape[0] if self._size else -1,
                num_threads=1,
                fault_tol=1e-6,
            )
            if len(reader) != len(items):
                raise self._refuse(self._damage(items, f"{len(reader)} of {len(items)} frames"))
            if first:
                reader.seek_accurate(first)
            for _ in range(count):
                picture = reader.next().asnumpy()
                if picture.shape != (*self._shape, 3):  # very narrow pictures keep FFmpeg's padding
                    height, width = self._shape
                    raise self._refuse(f"it can't give pictures of {width} x {height}")
                yield picture
        except self._errors as error:
            raise self._refuse(self._damage(items, type(error).__name__)) from error

    def _damage(self, items: list[Item], what: str) -> str:
        """Say why these packets can't be decoded, `what` being the sign of it."""
        stamps = [_pts(item) for item in items]
        if self._stream.codec_context.has_b_frames and stamps == sorted(stamps):
            return f"its timestamps are in the order of decoding ({what})"
        return f"it is damaged ({what})"

    def _packed(self, items: list[Item]) -> bytes:
        """Return these packets as a file for decord. Raises RejectedTask."""
        try:
            return matroska(self._stream, items)
        except (ValueError, import_av().FFmpegError) as error:
            codec = self._stream.codec_context.name
            raise self._refuse(f"its packets ({codec}) don't go into a Matroska") from error

    def _refuse(self, why: str) -> RejectedTask:
        return RejectedTask(f"decord can't decode {self._name}: {why}", hint=INSTEAD)


def segments(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Divide items where no picture refers across: before key frames that are displayed first."""
    segment: list[Item] = []
    group: list[Item] = []
    for item in items:
        if item.packet.is_keyframe and group:
            segment, done = _join(segment, group)
            if done:
                yield done
            group = []
        group.append(item)
    segment, done = _join(segment, group)
    if done:
        yield done
    if segment:
        yield segment


def _join(segment: list[Item], group: list[Item]) -> tuple[list[Item], list[Item] | None]:
    """Add a group to a segment; return (the open segment, a finished one or None)."""
    closed = bool(group) and min(map(_pts, group)) == _pts(group[0]) and group[0].packet.is_keyframe
    if closed and len(segment) >= MIN_SEGMENT:
        return group, segment
    return segment + group, None


def _pts(item: Item) -> int:
    return item.packet.pts or 0


def matroska(stream: VideoStream, items: list[Item]) -> bytes:
    """Return a Matroska file with these packets only, its timestamps beginning at 0.

    Raises ValueError or FFmpegError if the packets do not fit into one.
    """
    av = import_av()
    file = io.BytesIO()
    start = min(_pts(item) for item in items)
    last = max(max(_pts(item), item.packet.dts or 0) for item in items)
    if (last - start) * (stream.time_base or 0) > MAX_SECONDS:
        raise ValueError("timestamps too far apart")
    with av.open(file, "w", format="matroska") as output:
        copy = output.add_stream_from_template(stream)
        copy.codec_context.framerate = stream.average_rate or Fraction(25)  # decord requires one
        for item in items:
            packet = av.Packet(bytes(item.packet))
            packet.stream = copy
            packet.time_base = item.packet.time_base
            packet.pts = _pts(item) - start
            packet.dts = None if item.packet.dts is None else item.packet.dts - start
            packet.is_keyframe = item.packet.is_keyframe
            output.mux(packet)
    return file.getvalue()
