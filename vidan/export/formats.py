"""Predictions as files, and the formats that there are."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vidan.export import targets

if TYPE_CHECKING:
    from vidan.services.predictions import StoredFrame

    Pages = Iterable[list[StoredFrame]]

CSV_COLUMNS = "scenario_id frame time_ms label score x1 y1 x2 y2 track_id".split()


def known_format(word: str) -> str:
    """The name of a format; ValueError names those that there are."""
    if word not in FORMATS:
        raise ValueError(f"no such format {word!r}; there are {', '.join(FORMATS)}")
    return word


def write(pages: Pages, format: str, file: str | None) -> int:
    """Write the pages to a file (None: stdout); how many frames. Raises InputRejected."""
    if file is None:
        return FORMATS[format](pages, sys.stdout)
    with targets.text(Path(file)) as target:
        return FORMATS[format](pages, target)


def write_jsonl(pages: Pages, target: IO[str]) -> int:
    """A frame a line, as JSON; how many frames."""
    count = 0
    for page in pages:
        for frame in page:
            target.write(json.dumps(frame.as_json(), ensure_ascii=False) + "\n")
        count += len(page)
    return count


def write_csv(pages: Pages, target: IO[str]) -> int:
    """A heading, then a detection a line; how many frames."""
    rows = csv.writer(target, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)
    count = 0
    for page in pages:
        for frame in page:
            rows.writerows(_rows(frame))
        count += len(page)
    return count


FORMATS: dict[str, Callable[[Pages, IO[str]], int]] = {"jsonl": write_jsonl, "csv": write_csv}


def _rows(frame: StoredFrame) -> Iterator[list[object]]:
    record = frame.as_json()
    for one in record["detections"]:
        yield [
            frame.scenario_id,
            frame.frame,
            frame.time_ms,
            one["label"],
            one["score"],
            *one["box"],
            one["track_id"],
        ]
