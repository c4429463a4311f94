"""Opens containers with PyAV and reads their packets, continuing after damage."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vidan.errors import MissingExtra, RejectedTask, VidanError
from vidan.video.optional import look_up
from vidan.video.refusals import DECRYPT, explained, is_encrypted

if TYPE_CHECKING:
    from fractions import Fraction

    from av import Packet, VideoStream
    from av.container import InputContainer

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "srt", "tcp", "rtp", "mms"})
MAX_ERRORS = 1000
"""Most consecutive failed reads before the source ends; more if its index lists more packets."""

MAX_PIXELS = 100_000_000
"""Largest picture, in pixels (12K has 80 million).

A damaged header can claim any size, and one picture of the size that FFmpeg allows takes gigabytes.
"""

STORAGE_ERRORS = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENXIO, errno.ENODEV, errno.ENOLINK, errno.EREMOTEIO, errno.EACCES, errno.EBADF}
)
"""Errors of a disk or network file system that can't be read at the moment."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")


def scheme_of(source: str) -> str:
    """Return `rtsp`, `http`, …; "" for a path on this machine, `file://` included."""
    found = _SCHEME.match(source)
    scheme = found.group(1).lower() if found else ""
    return "" if scheme == "file" else scheme


def local_path(source: str) -> Path:
    """Return the path that a local source names."""
    if source.lower().startswith("file://"):
        return Path(unquote(urlsplit(source).path))
    return Path(source)


def shown(source: str) -> str:
    """Return the source as messages may show it: without user and password."""
    if scheme_of(source):
        return re.sub(r"://[^/?#\s]*@", "://", source)
    return source if source.startswith("file://") else source.removeprefix("file:")


def import_av() -> Any:
    """Load PyAV when the first source is opened. Raises MissingExtra."""
    try:
        import av
    except ImportError as error:
        raise MissingExtra(
            f"PyAV can't be loaded ({error})", hint='pip install "vidan[worker]"'
        ) from error
    av.logging.set_level(None)  # gaps and errors report damage, not FFmpeg's lines on stderr
    return av


@dataclass(slots=True)
class Opened:
    """A container and the one video stream that is read from it."""

    container: InputContainer
    stream: VideoStream
    live: bool
    network: bool

    @property
    def time_base(self) -> Fraction:
        from fractions import Fraction

        return self.stream.time_base or Fraction(1, 90_000)

    @property
    def indexed(self) -> bool:
        """Whether seeking by timestamp is exact; without an index FFmpeg guesses a position."""
        name = self.container.format.name
        return not self.live and ("mp4" in name or "matroska" in name)

    @property
    def codec(self) -> str:
        return self.stream.codec_context.name

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the stream's packets, skipping those that can't be read.

        Raises VidanError when the connection is lost or the disk fails, RejectedTask if they are
        encrypted.
        """
        av = import_av()
        errors = 0
        listed = look_up("the index", lambda: len(self.stream.index_entries), 0)
        limit = max(MAX_ERRORS, listed)
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    errors = 0
                    if is_encrypted(packet):
                        raise _encrypted(str(self.container.name))
                    if packet.size > 0:  # an empty packet marks the end for the decoder
                        yield packet
                return
            except IndexError:
                return  # PyAV ends so if a stream appeared in the middle of a file
            except (av.FFmpegError, OSError) as error:
                if not self._is_damage(av, error):
                    raise self._lost(error) from error
                errors += 1
                if errors > limit:
                    return

    def _is_damage(self, av: Any, error: Exception) -> bool:
        """Whether the error means damage: an error of the disk does not.

        Running out of memory does: a damaged file may claim a packet of gigabytes.
        """
        if self.live or self.network:
            return isinstance(error, av.error.InvalidDataError)
        return isinstance(error, av.FFmpegError) and error.errno not in STORAGE_ERRORS

    def _lost(self, error: Exception) -> VidanError:
        where = shown(str(self.container.name))
        if self.network:
            return VidanError(f"lost the connection to {where}: {reason(error)}")
        return VidanError(f"can't read {where}: {reason(error)}")


def reason(error: Exception) -> str:
    """Describe an FFmpeg error in a few words."""
    if type(error).__name__ == "ExitError":
        return "no data arrived within the read timeout"
    return str(getattr(error, "strerror", None) or error)


def open_container(source: str, read_timeout: float = 10.0) -> Opened:
    """Open a source and choose its best video stream. `read_timeout` is in seconds.

    Raises RejectedTask if it can't be read, VidanError if a network source does not answer.
    """
    av = import_av()
    scheme = scheme_of(source)
    name = source if scheme else str(local_path(source))
    options = {"max_pixels": str(MAX_PIXELS)}  # applies while FFmpeg probes the first packets
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = "tcp"
    timeout = (read_timeout, read_timeout) if scheme else None
    try:
        # With file:… FFmpeg takes no file name for a protocol or a list of files.
        # Titles and comments are text of any encoding, or of none.
        container = av.open(
            name if scheme else f"file:{name}",
            options=options,
            timeout=timeout,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _unopened(av, source, scheme, error) from error
    try:
        stream = _best_stream(av, container, source)
        context = stream.codec_context
        check_size(source, context.height, context.width)
        context.options = {"max_pixels": str(MAX_PIXELS)}  # larger pictures later count as damage
    except BaseException:
        container.close()
        raise
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    return Opened(container, stream, _is_live(scheme, name, container), bool(scheme))


def check_size(source: str, height: int, width: int) -> None:
    """Raise RejectedTask for pictures that are too large to be decoded."""
    if height * width > MAX_PIXELS:
        raise RejectedTask(
            f"the pictures of {shown(source)} are too large: {width} x {height},"
            f" the most is {MAX_PIXELS // 10**6} million pixels",
            hint="scale the video down first; or its header is damaged and claims a wrong size",
        )


def nothing_decoded(source: str, message: str) -> RejectedTask:
    """Return the error for a source without a picture: with `message`, unless the file says why."""
    path = None if scheme_of(source) else local_path(source.removeprefix("file:"))
    message, hint = explained(path, message, "was it copied or downloaded whole?")
    return RejectedTask(message, hint=hint)


def _encrypted(source: str) -> RejectedTask:
    return RejectedTask(f"the video in {shown(source)} is encrypted", hint=DECRYPT)


def _unopened(av: Any, source: str, scheme: str, error: Exception) -> VidanError:
    where = shown(source)
    permanent = (
        av.error.HTTPClientError,
        av.error.ProtocolNotFoundError,
        av.error.InvalidDataError,
    )
    if scheme and not isinstance(error, permanent):
        return VidanError(f"can't open {where}: {reason(error)}")
    if not scheme and isinstance(error, FileNotFoundError | PermissionError):
        return _unreadable(where, local_path(source))
    if not scheme and isinstance(error, OSError) and _may_pass(error, local_path(source)):
        return VidanError(f"can't open {where}: {reason(error)}")
    if scheme and not isinstance(error, av.error.InvalidDataError):
        return RejectedTask(f"can't open {where}: {reason(error)}")
    if isinstance(error, av.error.EOFError):
        return nothing_decoded(source, f"the file ends before its first picture: {where}")
    return RejectedTask(
        f"not a video that can be read: {where}",
        hint="an MP4 cut off before its index can't be opened",
    )


def _may_pass(error: OSError, path: Path) -> bool:
    """Whether the file may be readable later.

    A truncated Matroska gives EIO as a failing disk does, so the file is read to tell them apart.
    """
    if error.errno != errno.EIO:
        return error.errno in STORAGE_ERRORS | {errno.EMFILE, errno.ENFILE}
    try:
        if not path.is_file():  # opening a pipe again would wait for its next writer
            return False
        with path.open("rb") as file:
            file.read(1)
            file.seek(-1, os.SEEK_END)
            file.read(1)
    except OSError:
        return True
    return False


def _unreadable(where: str, path: Path) -> RejectedTask:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return RejectedTask(f"no such file: {where}", hint="check the path")
    except OSError:
        return RejectedTask(f"not allowed to read {where}", hint=f"chmod +r {where}")
    return RejectedTask(
        f"{where} is a list of other files, and one of them can't be opened",
        hint="name the videos themselves",
    )


def _best_stream(av: Any, container: InputContainer, source: str) -> VideoStream:
    where = shown(source)
    pictures = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams:
        raise RejectedTask(f"no video in {where}", hint="it has " + _contents(container))
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    if stream.codec_context is None:
        raise RejectedTask(f"no decoder for the video in {where}", hint="convert it, e.g. to H.264")
    return stream


def _contents(container: InputContainer) -> str:
    kinds = sorted({str(stream.type) for stream in container.streams})
    return "only " + " and ".join(kinds) if kinds else "no streams at all"


def _is_live(scheme: str, name: str, container: InputContainer) -> bool:
    """Whether the source has no length and can't be sought in: a camera, a stream, a pipe."""
    if not scheme:
        return not stat.S_ISREG(Path(name).stat().st_mode)
    if scheme in LIVE_SCHEMES:
        return True
    if "hls" in container.format.name or "dash" in container.format.name:
        return not container.duration
    return container.size < 0
