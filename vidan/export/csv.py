"""The format csv: a heading, then one line per detection."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from vidan.services.predictions import StoredFrame

COLUMNS = "scenario_id frame time_ms label score x1 y1 x2 y2 track_id".split()


def write(
    pages: Iterable[list[StoredFrame]],
    target: IO[str],
    sources: Mapping[int, str | None] | None = None,
) -> int:
    """Write the detections of all pages; return how many frames there were."""
    rows = csv.writer(target, lineterminator="\n")
    rows.writerow(COLUMNS if sources is None else [*COLUMNS, "source"])
    count = 0
    for page in pages:
        for frame in page:
            more = [] if sources is None else [sources[frame.scenario_id]]
            rows.writerows([*row, *more] for row in _rows(frame))
        count += len(page)
    return count


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
