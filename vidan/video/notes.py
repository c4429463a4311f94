"""What is noticed about a source beside its frames: each is told once, in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vidan.video.container import Opened, import_av
from vidan.video.optional import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NOTES = 20
"""Most notes about one source."""

TAIL_BYTES = 128 << 10
"""Bytes at the end of a file in which its last page is searched: a page of Ogg has 64 KiB."""

CUT_OFF = "the file was cut off; how many frames are missing at its end is unknown"


class Notes:
    """The notes about one source, in the order in which they were made, without repetition."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, *texts: str) -> None:
        """Add notes that are not there yet, up to MAX_NOTES in all."""
        for text in texts:
            if text not in self._texts and len(self._texts) < MAX_NOTES:
                self._texts.append(text)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class Watch:
    """Compares a local file with what it was when it was opened; None for what is no file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path if path is not None and path.is_file() else None
        self._before = self._now()

    def changes(self) -> list[str]:
        """Say what happened to the file since then."""
        before, now = self._before, self._now()
        if before is None or now is None or before == now:
            return []
        if now[0] > before[0]:
            return [
                f"the file grew while it was read, from {before[0]} to {now[0]} bytes: it was read"
                " to the end that it had then, and frames that came later are missing"
            ]
        if now[0] < before[0]:
            return [
                f"the file became shorter while it was read, from {before[0]} to {now[0]} bytes:"
                " frames may be missing"
            ]
        return ["the file was written to while it was read: frames may be those of both versions"]

    @property
    def identity(self) -> dict[str, str | int] | None:
        """Return the file's size and time of change, by which a later run knows the same file."""
        if self._before is None:
            return None
        size, changed = self._before
        return {"bytes": size, "changed": f"{changed // 10**9}.{changed % 10**9:09d}"}

    def _now(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        path = self._path
        found = look_up("the file's size", path.stat, None)
        return None if found is None else (found.st_size, found.st_mtime_ns)


def of_streams(opened: Opened) -> list[str]:
    """Name other video streams than the one that is read.

    Of an MPEG-TS, a stream that is not there at the beginning has no size yet.
    """
    pictures = import_av().stream.Disposition.attached_pic
    others = [
        one
        for one in opened.container.streams.video
        if one is not opened.stream
        and not one.disposition & pictures
        and one.codec_context is not None
        and one.codec_context.width
    ]
    if not others:
        return []
    named = ", ".join(_named(one) for one in others[:5]) + (", …" if len(others) > 5 else "")
    count = "another video stream" if len(others) == 1 else f"{len(others)} other video streams"
    return [f"there is {count} ({named}), which is not read: only {_named(opened.stream)} is"]


def _named(stream: object) -> str:
    context = getattr(stream, "codec_context", None)
    size = f" of {context.width} x {context.height}" if context and context.width else ""
    return f"number {getattr(stream, 'index', '?')}{size}"


def of_end(path: Path | None, name: str) -> list[str]:
    """Say that a file was cut off, where its container marks its end."""
    if path is None or name not in ("ogg", "gif"):
        return []
    tail = look_up("the file's end", lambda: _tail(path), b"")
    if name == "gif":
        return [] if not tail or tail.rstrip(b"\0").endswith(b";") else [CUT_OFF]
    # The flag "end of stream" of the last page, RFC 3533, section 6.
    page = tail.rfind(b"OggS")
    return [CUT_OFF] if 0 <= page < len(tail) - 5 and not tail[page + 5] & 0x04 else []


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read()
