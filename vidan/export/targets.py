"""The files that an export writes: only ordinary files, and never the video that was read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vidan.errors import InputRejected
from vidan.video.container import local_path
from vidan.video.opening import is_local


def spare(file: str | Path, source: str | None) -> None:
    """Raise InputRejected if the file to be written is the source that was read."""
    if source is None or not is_local(source):
        return
    with suppress(OSError):
        if Path(file).samefile(local_path(source)):
            raise InputRejected(
                f"{file} is the source itself: it would be overwritten", hint="name another file"
            )


def video(file: str) -> Path:
    """Return the path of a video to be written, symlinks resolved. Raises InputRejected."""
    path = Path(file)
    if path.suffix.lower() not in (".mp4", ".m4v"):
        raise InputRejected(
            f"the output must end in .mp4, not {file}", hint=f"such as {path.stem}.mp4"
        )
    if not path.absolute().parent.is_dir():
        raise InputRejected(f"no such folder: {path.parent}", hint="create it first")
    if path.exists() and not path.is_file():
        raise InputRejected(f"can't write a video to {file}: it is not a file", hint="name a file")
    return path.resolve()


@contextmanager
def text(path: Path) -> Iterator[IO[str]]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    After an error the temporary file is removed. A pipe or a device is opened itself. Raises
    InputRejected if the file can't be written.
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
            f"can't write {named}: {error.strerror}",
            hint="does the folder exist, and may you write to it?",
        ) from None
