"""TODO: say what this module is for."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from vidan.errors import InputRejected, MissingExtra, UsageError, VidanError
from vidan.video.sampling import Sampling

if TYPE_CHECKING:  # a source is checked without the extra `worker`, which has numpy
    pass
from vidan.domain.bounds import DECODERS
from vidan.video.frames import FrameSource, Size


def open_source(
    source: str,
    *,
    decoder: str = "pyav",
    frame: int = 0,
    pts: int | None = None,
    every: int = 1,
    fps: float | None = None,
    size: Size | None = None,
    read_timeout: float = 10.0,
) -> FrameSource:
    """Open a path or URL at a frame.

    `frame`, `pts`: next_frame and next_pts of the last stored batch. `every`, `fps`: see Sampling.
    `size`: see Size; the decoder scales. `read_timeout`: seconds, of network sources.
    Raises RejectedTask for what can't be read, VidanError where a retry may help, MissingExtra,
    UsageError.
    """
    if frame < 0:
        raise UsageError(f"frame={frame} is negative", hint="frames are counted from 0")
    sampling = Sampling.of(every, fps)
    if decoder not in DECODERS:
        raise UsageError(f"no decoder {decoder!r}", hint="there are " + " and ".join(DECODERS))
    from vidan.video.source import VideoSource

    return VideoSource(
        source,
        frame=frame,
        pts=pts,
        sampling=sampling,
        size=size,
        read_timeout=read_timeout,
        decord=decoder == "decord",
    )


def is_local(source: str) -> bool:
    """Whether a source is a path of this machine (file:// too), not a URL."""
    from vidan.video.container import scheme_of

    return not scheme_of(source)


def check_source(source: str) -> None:
    """Refuse what can't be a video before anything is queued. Raises InputRejected.

    A file has to exist and not be empty; with PyAV installed it has to open, with video in it.
    Network sources and pipes are not touched: to open them takes time, or takes what the worker
    should read.
    """
    from vidan.video.container import local_path

    if not is_local(source):
        return
    path = local_path(source)
    if _is_file(path):
        _check_video(str(path))


def _is_file(path: Path) -> bool:
    """False: a pipe or device, which can't be looked into."""
    try:
        found = path.stat()
    except PermissionError:
        raise InputRejected(
            f"not allowed to look at {path}", hint="check the permissions of its folders"
        ) from None
    except (OSError, ValueError):  # not there, a name too long, a NUL in it
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
    from vidan.video.container import open_container

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
        raise InputRejected(f"no picture in {path}", hint="was it copied or downloaded whole?")
