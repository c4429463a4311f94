"""The files that commands write: never one that is no file, never the video that was read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vidan.errors import InputRejected


def spare(file: str | Path, source: str | None) -> None:
    """See that a file to be written is not the source that was read. Raises InputRejected."""
    from vidan.video.container import local_path
    from vidan.video.opening import is_local

    if source is None or not is_local(source):
        return
    with suppress(OSError):
        if Path(file).samefile(local_path(source)):
            raise InputRejected(
                f"{file} is the source itself: it would be overwritten", hint="name another file"
            )


def video(file: str) -> Path:
    """Return where a video is to be written, behind a symlink, too. Raises InputRejected."""
    path = Path(file)
    if path.suffix.lower() not in (".mp4", ".m4v"):
        raise InputRejected(f"{file} is no name of an MP4", hint=f"such as {path.stem}.mp4")
    if not path.absolute().parent.is_dir():
        raise InputRejected(f"no such folder: {path.parent}", hint="make it first")
    if path.exists() and not path.is_file():
        raise InputRejected(f"can't write a video to {file}: it is no file", hint="name a file")
    return path.resolve()


@contextmanager
def text(path: Path) -> Iterator[IO[str]]:
    """A file to write in its stead: it takes the name when the block ends well, else it is gone.

    What is no ordinary file, a pipe or a device, is written to as it is. Raises InputRejected where
    nothing can be written.
    """
    if path.is_dir():
        raise InputRejected(f"can't write {path}: it is a folder", hint="name a file")
    if _is_passed_through(path):
        with _opened(path, path) as target:
            yield target
        return
    real = path.resolve()
    draft = real.with_name(f".{real.name}.{os.getpid()}.part")
    target = _opened(draft, path)
    try:
        with target:
            yield target
        draft.replace(real)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def _is_passed_through(path: Path) -> bool:
    open_already = str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return open_already or (path.exists() and not path.is_file())


def _opened(path: Path, named: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InputRejected(
            f"can't write {named}: {error.strerror}", hint="is the folder there, and writable?"
        ) from None
