"""Frames in which labels were found, of any scenario: read page by page."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import psycopg
from sqlalchemy import Connection

from vidan.domain.bounds import MAX_ID
from vidan.domain.detection import Detection
from vidan.protocol import storable
from vidan.services.predictions import StoredFrame, detections

_STORED_SCORE = struct.Struct("f")
"""Scores are stored in 32 bits."""

# Labels are told apart by their places in the scenario's own list. A scenario that lacks one of the
# labels is left without a look at its frames.
_PAGE = """
SELECT p.frame, p.label_ids, p.scores, p.boxes, p.track_ids, p.time_ms, p.extra, s.label_names
FROM scenarios s
CROSS JOIN LATERAL (
    SELECT array_agg(CAST(n.place - 1 AS smallint)) FILTER (WHERE n.name = ANY(%(all)s)) AS of_all,
           array_agg(CAST(n.place - 1 AS smallint)) FILTER (WHERE n.name = ANY(%(any)s)) AS of_any
    FROM unnest(s.label_names) WITH ORDINALITY AS n (name, place)
) ids
CROSS JOIN LATERAL (
    SELECT * FROM predictions p
    WHERE p.scenario_id = s.id AND p.week = s.week AND p.frame > %(after)s::bigint
      AND cardinality(p.label_ids) > 0
      AND (ids.of_all IS NULL OR p.label_ids @> ids.of_all)
      AND (ids.of_any IS NULL OR p.label_ids && ids.of_any)
    ORDER BY p.frame LIMIT %(limit)s::bigint
) p
WHERE s.id = %(id)s::bigint AND NOT s.pruned AND s.label_names @> %(all)s::text[]
  AND (cardinality(%(any)s::text[]) = 0 OR s.label_names && %(any)s::text[])
ORDER BY p.frame
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which frames are wanted: with a detection of each label of `all`, and of one of `any`.

    Detections that score below `min_score` do not count, and are left out. Without labels a frame
    needs one detection.
    """

    all: Sequence[str] = ()
    any: Sequence[str] = ()
    min_score: float = 0.0

    def within(self, frame: StoredFrame) -> StoredFrame | None:
        """Return the frame with the detections that count, None if it is not wanted."""
        (least,) = _STORED_SCORE.unpack(_STORED_SCORE.pack(self.min_score))
        kept: tuple[Detection, ...] = tuple(one for one in frame.detections if one.score >= least)
        labels = {one.label for one in kept}
        fits = labels >= set(self.all) and (not self.any or not labels.isdisjoint(self.any))
        return replace(frame, detections=kept) if kept and fits else None


@dataclass(frozen=True, slots=True)
class Page:
    """The wanted frames of one page, in order; `last` is the frame after which the next begins.

    `last` is None after the last page.
    """

    frames: list[StoredFrame]
    last: int | None


def read(
    connection: Connection, scenario_id: int, wanted: Wanted, after: int = -1, *, limit: int
) -> Page:
    """Return the wanted frames of a scenario after a frame; up to `limit` frames are looked at.

    A scenario that was pruned, or doesn't exist, has none.
    """
    if not (0 < scenario_id <= MAX_ID) or not all(
        map(storable.is_text, (*wanted.all, *wanted.any))
    ):
        return Page([], None)
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with driver.cursor(binary=True) as cursor:  # parsing arrays from text would take most time
        rows = cursor.execute(
            _PAGE,
            {
                "id": scenario_id,
                "all": list(wanted.all),
                "any": list(wanted.any),
                "after": after,
                "limit": limit,
            },
        ).fetchall()
    frames = [
        StoredFrame(
            scenario_id,
            number,
            time_ms,
            detections(label_ids, scores, boxes, track_ids, names),
            extra,
        )
        for number, label_ids, scores, boxes, track_ids, time_ms, extra, names in rows
    ]
    found = [one for one in map(wanted.within, frames) if one is not None]
    return Page(found, frames[-1].frame if len(frames) == limit else None)
