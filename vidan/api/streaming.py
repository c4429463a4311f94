"""Writes the predictions of a scenario as one JSON object while they are read.

The rows become JSON as they are stored, without an object for each detection: that would take most
of a request's time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vidan.db.session import Database
from vidan.services import predictions
from vidan.services.predictions import Rows
from vidan.services.scenarios import no_such_scenario

PAGE = 500
"""Frames that are read in one transaction and held in memory."""


def pages(
    database: Database,
    scenario_id: int,
    *,
    after: int = -1,
    upto: int | None = None,
    limit: int | None = None,
    detail: bool = False,
) -> Iterator[Rows]:
    """Yield pages of frames with detections, in order: after frame `after`, up to and with `upto`.

    Without `upto` the last frame is the one that is stored when the first page is read. At most
    `limit` frames are yielded. Only with `detail` do the rows have more than frame, label_ids and
    scores. Each page is read in a short transaction. Raises NotFoundError or DatabaseUnavailable,
    on any page.
    """
    left, begun = limit, False
    while True:
        with database.begin() as connection:
            page = predictions.read_rows(
                connection, scenario_id, after, limit=PAGE, upto=upto, brief=not detail
            )
        if begun and page.last < after:  # deleted or started from the beginning meanwhile
            raise no_such_scenario(scenario_id)
        upto, begun = page.last if upto is None else upto, True
        found = [row for row in page.rows if row[1]]
        if left is not None:
            found = found[:left]
            left -= len(found)
        yield Rows(found, page.label_names, page.last)
        if left == 0 or len(page.rows) < PAGE:
            return
        after = page.rows[-1][0]


def document(scenario_id: int, read: Iterable[Rows], *, detail: bool) -> Iterator[bytes]:
    """Yield the JSON document in pieces, one for each page.

    An error while reading breaks the document off, so that a part never looks complete.
    """
    separator = f'{{"scenario_id": {scenario_id}, "predictions": {{"predictions": ['
    for page in read:
        items = list((_whole if detail else _brief)(page))
        if items:
            yield (separator + ", ".join(items)).encode()
            separator = ", "
    yield (("" if separator == ", " else separator) + "]}}").encode()


def _brief(page: Rows) -> Iterator[str]:
    starts = _starts(page.label_names)
    for _, label_ids, scores in page.rows:
        for label_id, score in zip(label_ids, scores, strict=True):
            yield f"{starts[label_id]}{_number(score, 4)}}}"


def _whole(page: Rows) -> Iterator[str]:
    starts = _starts(page.label_names)
    for frame, label_ids, scores, boxes, track_ids, time_ms, *_ in page.rows:
        place = f', "frame": {frame}, "time_ms": {time_ms}, "box": ['
        edges = (_number(edge, 2) for edge in boxes)
        found = zip(
            zip(edges, edges, edges, edges, strict=True),
            label_ids,
            scores,
            track_ids or [None] * len(scores),
            strict=True,
        )
        for box, label_id, score, track_id in found:
            track = "null" if track_id is None else track_id
            yield (
                f"{starts[label_id]}{_number(score, 4)}{place}"
                f'{", ".join(box)}], "track_id": {track}}}'
            )


def _starts(label_names: Sequence[Any]) -> list[str]:
    """Return how the object of a detection begins, for each label's id."""
    return [f'{{"class": {json.dumps(name)}, "confidence": ' for name in label_names]


def _number(value: float, digits: int) -> str:
    """Return a number, which is stored in 32 bits, rounded; null for NaN and infinity."""
    return repr(round(value, digits)) if math.isfinite(value) else "null"
