"""Turns the source that a caller names into the one that is stored: checked, with absolute path."""

from __future__ import annotations

from pathlib import Path

from vidan.errors import InputRejected
from vidan.video.opening import check_source, is_local


def source_for(place: str, *, check: bool) -> str:
    """Return the source as it is stored: a local path is made absolute, a URL stays as it is.

    With `check`, raises InputRejected if a local file is no video.
    """
    if not place:
        raise InputRejected("a source can't be empty", hint="is a shell variable unset?")
    try:
        place.encode()
    except UnicodeEncodeError:
        raise InputRejected(
            f"the file's name is not UTF-8: {place!r}", hint="rename it, or link to it"
        ) from None
    if not is_local(place):
        return place
    if place.startswith("file:"):
        source = place
    else:
        source = str(Path(place).expanduser().absolute())
    if check:
        check_source(source)
    return source
