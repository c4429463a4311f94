"""Writes the predictions of a scenario as one JSON object while they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from vidan.db.session import Database
from vidan.services import predictions
from vidan.services.predictions import StoredFrame

PAGE = 500
"""Frames that are read in one transaction and held in memory."""


def pages(
    database: Database,
    scenario_id: int,
    *,
    after: int = -1,
    upto: int | None = None,
    limit: int | None = None,
) -> Iterator[list[StoredFrame]]:
    """Yield pages of frames with detections, in order: after frame `after`, up to and with `upto`.

    Without `upto` the last frame is the one that is stored when the first page is read. At most
    `limit` frames are yielded. Each page is read in a short transaction. Raises NotFoundError or
    DatabaseUnavailable, on any page.
    """
    left = limit
    while True:
        with database.begin() as connection:
            if upto is None:
                upto = predictions.last_stored(connection, scenario_id)
            frames = predictions.read_after(connection, scenario_id, after, limit=PAGE, upto=upto)
        found = [frame for frame in frames if frame.detections]
        if left is not None:
            found = found[:left]
            left -= len(found)
        yield found
        if left == 0 or len(frames) < PAGE:
            return
        after = frames[-1].frame


def document(
    scenario_id: int, read: Iterable[list[StoredFrame]], *, detail: bool
) -> Iterator[bytes]:
    """Yield the JSON document in pieces, one for each page.

    An error while reading breaks the document off, so that a part never looks complete.
    """
    separator = f'{{"scenario_id": {scenario_id}, "predictions": {{"predictions": ['
    for page in read:
        items = [item for frame in page for item in _items(frame, detail=detail)]
        if items:
            yield (separator + json.dumps(items, allow_nan=False)[1:-1]).encode()
            separator = ", "
    yield (("" if separator == ", " else separator) + "]}}").encode()


def _items(frame: StoredFrame, *, detail: bool) -> Iterator[dict[str, Any]]:
    for one in frame.detections:
        item: dict[str, Any] = {"class": one.label, "confidence": _number(one.score, 4)}
        if detail:
            item["frame"] = frame.frame
            item["time_ms"] = frame.time_ms
            item["box"] = [_number(edge, 2) for edge in one.box]
            item["track_id"] = one.track_id
        yield item


def _number(value: float, digits: int) -> float | None:
    """Round a number, which is stored in 32 bits; None for NaN and infinity, which JSON lacks."""
    return round(value, digits) if math.isfinite(value) else None
