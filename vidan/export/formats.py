"""The registry of export formats. To add one: a module with `write`, and an entry in FORMATS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vidan.export import csv, jsonl, targets

if TYPE_CHECKING:
    from vidan.services.predictions import StoredFrame

    Pages = Iterable[list[StoredFrame]]

FORMATS: dict[str, Callable[[Pages, IO[str]], int]] = {
    "jsonl": jsonl.write,
    "csv": csv.write,
}
"""Each format's writer: it writes pages of frames, in order, and returns the number of frames."""


def known_format(word: str) -> str:
    """Return the name of a format; raises ValueError that names the formats."""
    if word not in FORMATS:
        raise ValueError(f"no such format {word!r}; there are {', '.join(FORMATS)}")
    return word


def write(pages: Pages, format: str, file: str | None) -> int:
    """Write pages of frames to a file (None: stdout), and return the number of frames.

    Raises InputRejected if the file can't be written.
    """
    if file is None:
        return FORMATS[format](pages, sys.stdout)
    with targets.text(Path(file)) as target:
        return FORMATS[format](pages, target)
