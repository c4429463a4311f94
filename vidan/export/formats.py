"""The registry of export formats. To add one: a module with `write`, and an entry in FORMATS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vidan.errors import InputRejected
from vidan.export import csv, jsonl, targets

if TYPE_CHECKING:
    from vidan.services.predictions import StoredFrame

    Pages = Iterable[list[StoredFrame]]
    Writer = Callable[[Pages, IO[str], Mapping[int, str | None] | None], int]

FORMATS: dict[str, Writer] = {
    "jsonl": jsonl.write,
    "csv": csv.write,
}
"""Each format's writer, by the suffix of its files: it writes pages of frames, in order, and
returns how many. `sources`, by the scenario's id, become a last column."""


def known_format(word: str) -> str:
    """Return the name of a format; raises ValueError that names the formats."""
    if word not in FORMATS:
        raise ValueError(f"no such format {word!r}; there are {', '.join(FORMATS)}")
    return word


def of_file(format: str | None, file: str | None) -> str:
    """Return the format that was asked for, or that the name of the file says.

    Without a file, and for a name without a suffix, such as that of a pipe, it is the first format.
    Raises InputRejected for another suffix.
    """
    suffix = "" if file is None else Path(file).suffix
    if format is not None or not suffix:
        return format or next(iter(FORMATS))
    found, stem = suffix.lower().removeprefix("."), Path(str(file)).stem
    if found not in FORMATS:
        raise InputRejected(
            f"{file}: no format has files that end in {suffix}",
            hint=f"name it {' or '.join(f'{stem}.{one}' for one in FORMATS)}, or add --format",
        )
    return found


def write(
    pages: Pages,
    format: str,
    file: str | None,
    sources: Mapping[int, str | None] | None = None,
) -> int:
    """Write pages of frames to a file (None: stdout), and return the number of frames.

    With `sources`, which may grow while the pages are read, each frame has that of its scenario.
    Raises InputRejected if the file can't be written.
    """
    if file is None:
        return FORMATS[format](pages, sys.stdout, sources)
    with targets.text(Path(file)) as target:
        return FORMATS[format](pages, target, sources)
