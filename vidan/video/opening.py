"""Opens sources, and checks them before they are queued. Decoders load when a source is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vidan.domain.bounds import DECODERS
from vidan.errors import InputRejected, MissingExtra, UsageError, VidanError
from vidan.video.container import local_path, nothing_decoded, open_container, scheme_of
from vidan.video.frames import FrameSource, Size
from vidan.video.sampling import Sampling


def open_source(
    source: str,
    *,
    decoder: str = "pyav",
    frame: int = 0,
    pts: int | None = None,
    restart: tuple[int, int] | None = None,
    every: int = 1,
    fps: float | None = None,
    size: Size | None = None,
    deinterlace: bool = False,
    read_timeout: float = 10.0,
) -> FrameSource:
    """Open a path or URL at a frame.

    `decoder` is pyav, or decord for the containers that it decodes exactly. `frame`, `pts` and
    `restart` are next_frame, next_pts and next_restart of the last stored batch. `every` and `fps`:
    see Sampling. `size`: see Size; the decoder scales. `deinterlace`: of interlaced pictures, give
    the top field alone; pyav only. `read_timeout` is in seconds, for network sources. Raises
    RejectedTask if the source can't be read, VidanError if a retry may help, MissingExtra,
    UsageError.
    """
    if frame < 0:
        raise UsageError(f"frame={frame} is negative", hint="frames are counted from 0")
    sampling = Sampling.of(every, fps)
    if decoder not in DECODERS:
        raise UsageError(f"no decoder {decoder!r}", hint="there are " + " and ".join(DECODERS))
    if deinterlace and decoder != "pyav":
        raise UsageError(f"{decoder} can't deinterlace", hint="leave decoder out, or deinterlace")
    from vidan.video.source import VideoSource  # loads numpy, which belongs to the extra `worker`

    return VideoSource(
        source,
        frame=frame,
        pts=pts,
        restart=restart,
        sampling=sampling,
        size=size,
        deinterlace=deinterlace,
        read_timeout=read_timeout,
        decord=decoder == "decord",
    )


def is_local(source: str) -> bool:
    """Whether a source is a path on this machine (also as file://), not another URL."""
    return not scheme_of(source)


def check_source(source: str) -> None:
    """Raise InputRejected if the source can't be a video, before anything is queued.

    A file must exist and must not be empty; if PyAV is installed, it must open and contain video.
    Network sources and pipes are not opened: that takes time, or consumes what the worker is to
    read.
    """
    if not is_local(source):
        return
    path = local_path(source)
    if _is_file(path):
        _check_video(str(path))


def _is_file(path: Path) -> bool:
    """Check a local path; False for a pipe or device, which can't be checked further."""
    try:
        found = path.stat()
    except PermissionError:
        raise InputRejected(
            f"not allowed to read {path}", hint="check the permissions of its folders"
        ) from None
    except (OSError, ValueError):  # a missing file, a name too long, a NUL in it
        raise InputRejected(f"no such file: {path}", hint="check the path") from None
    if stat.S_ISDIR(found.st_mode):
        raise InputRejected(
            f"{path} is a folder, not a video", hint=f"name the files in it: {path}/*.mp4"
        )
    if not stat.S_ISREG(found.st_mode):
        return False
    if found.st_size == 0:
        raise InputRejected(f"{path} is empty", hint="was it copied or downloaded whole?")
    if not os.access(path, os.R_OK):
        raise InputRejected(f"not allowed to read {path}", hint=f"chmod +r {path}")
    return True


def _check_video(path: str) -> None:
    try:
        opened = open_container(path)
    except MissingExtra:
        return
    except VidanError as error:
        raise InputRejected(str(error), hint=error.hint) from error
    try:
        found = next(opened.packets(), None)
    except VidanError as error:
        raise InputRejected(str(error), hint=error.hint) from error
    finally:
        opened.container.close()
    if found is None:
        empty = nothing_decoded(path, f"no picture in {path}")
        raise InputRejected(str(empty), hint=empty.hint)
