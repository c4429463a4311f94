"""Predictions: read them frame by frame, or count them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import starmap
from typing import Any, cast

import psycopg
import psycopg.types.json
from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.domain.detection import Detection
from vidan.errors import Pruned
from vidan.services import timing
from vidan.services.scenarios import no_such_scenario


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A stored frame: all its detections, and what the task stored beside them.

    Scores and boxes are 32-bit numbers, as they are stored: 0.9 is 0.89999998 here, and 0.9 in
    JSON.
    """

    scenario_id: int
    frame: int
    time_ms: int
    detections: tuple[Detection, ...]
    extra: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        found: dict[str, Any] = {
            "scenario_id": self.scenario_id,
            "frame": self.frame,
            "time_ms": self.time_ms,
            "detections": [
                {
                    "label": one.label,
                    "score": _json_number(one.score, 4),
                    "box": [_json_number(edge, 2) for edge in one.box],
                    "track_id": one.track_id,
                }
                for one in self.detections
            ],
        }
        if self.extra is not None:
            found["extra"] = self.extra
        return found


_BRIEF = ("frame", "label_ids", "scores")
_WHOLE = (*_BRIEF, "boxes", "track_ids", "time_ms", "extra")

# One statement has one snapshot; between two, a run may add label names or the week may be dropped.
# The first row has the columns of the scenario's row, even if no frame is stored.
_PAGE = """
SELECT {columns},
       CASE WHEN p.number IS NULL OR p.number = 1 THEN s.label_names END AS label_names, s.pruned,
       s.checkpoint
FROM scenarios s LEFT JOIN (
    SELECT *, row_number() OVER (ORDER BY frame) AS number FROM predictions
    WHERE scenario_id = %(id)s::bigint AND week = %(week)s::date
      AND frame > %(frame)s::bigint AND frame <= %(upto)s::bigint
    ORDER BY frame LIMIT %(limit)s::bigint
) p ON true
WHERE s.id = %(id)s::bigint AND s.week = %(week)s::date ORDER BY p.frame
"""
_PAGES = {
    columns: _PAGE.format(columns=", ".join(f"p.{name}" for name in columns))
    for columns in (_BRIEF, _WHOLE)
}


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of predictions as they are stored, in order of the frames.

    Each row is (frame, label_ids, scores) and, if more than that was asked for, also boxes,
    track_ids, time_ms, extra. A label's id is its place in `label_names`; each detection has four
    numbers in `boxes`; `track_ids` may be None. `last` is the number of the last frame that was
    stored when the page was read, -1 if there was none.
    """

    rows: Sequence[tuple[Any, ...]]
    label_names: Sequence[str]
    last: int


def read_rows(
    connection: Connection,
    scenario_id: int,
    frame: int,
    *,
    limit: int,
    upto: int | None = None,
    brief: bool = False,
) -> Rows:
    """Return the rows of the stored frames after `frame`, one keyset page, as `read_after` does.

    `brief` rows end after the scores. Raises NotFoundError, Pruned.
    """
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    week = _week(connection, scenario_id)  # this statement also begins the transaction
    with driver.cursor(binary=True) as cursor:  # parsing arrays from text would take most time
        found = cursor.execute(
            _PAGES[_BRIEF if brief else _WHOLE],
            {
                "id": scenario_id,
                "week": week,
                "frame": max(-1, min(frame, MAX_ID)),
                "upto": MAX_ID if upto is None else min(upto, MAX_ID),
                "limit": max(0, min(limit, MAX_ID)),
            },
        ).fetchall()
    if not found:  # since its week was read, it was deleted or started from the beginning
        return Rows([], [], -1)
    number, *_ = found[0]
    *_, label_names, is_pruned, checkpoint = found[0]
    if is_pruned:
        raise pruned(scenario_id)
    rows = [row[:-3] for row in found] if number is not None else []
    return Rows(rows, label_names, checkpoint - 1)


def read_after(
    connection: Connection,
    scenario_id: int,
    frame: int,
    *,
    limit: int = 1000,
    upto: int | None = None,
) -> list[StoredFrame]:
    """Return the stored frames after `frame` (-1: from the start), in order, one keyset page.

    `upto` is the last frame wanted, itself included. Raises NotFoundError, Pruned.
    """
    page = read_rows(connection, scenario_id, frame, limit=limit, upto=upto)
    return [
        StoredFrame(
            scenario_id,
            number,
            time_ms,
            detections(label_ids, scores, boxes, track_ids, page.label_names),
            extra,
        )
        for number, label_ids, scores, boxes, track_ids, time_ms, extra in page.rows
    ]


def pruned(scenario_id: int) -> Pruned:
    """Return the error for a scenario whose predictions are gone."""
    return Pruned(
        f"the predictions of scenario {scenario_id} were pruned: they are gone",
        hint=f"`vidan scenario start {scenario_id} --from-beginning` makes them again",
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of what a scenario, or several together, have stored.

    `by_label` has the number of detections of each label, the most frequent first; `frames_with`
    the number of frames with at least one detection of it. `seconds` is the time that the runs
    took, None if there was none.
    """

    frames: int
    detections: int
    by_label: dict[str, int]
    frames_with: dict[str, int]
    lost_frames: int
    seconds: float | None = field(default=None, compare=False)

    @property
    def fps(self) -> float | None:
        """Frames per second of the runs, None if there was none."""
        return self.frames / self.seconds if self.seconds else None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "frames": self.frames,
            "detections": self.detections,
            "detections_of": self.by_label,
            "frames_with": self.frames_with,
            "lost_frames": self.lost_frames,
            "seconds": self.seconds and round(self.seconds, 2),
            "fps": self.fps and round(self.fps, 1),
        }


_SUMMARIES = """
SELECT s.id, s.pruned,
       (SELECT count(*) FROM predictions p WHERE p.scenario_id = s.id AND p.week = s.week)
           AS frames,
       (SELECT coalesce(sum(g.to_frame - g.from_frame + 1), 0)::bigint FROM gaps g
        WHERE g.scenario_id = s.id) AS lost,
       (SELECT jsonb_agg(jsonb_build_array(s.label_names[l.label_id + 1], l.detections, l.frames)
                         ORDER BY l.detections DESC, l.label_id)
        FROM (
            SELECT d.label_id, count(*) AS detections, count(DISTINCT p.frame) AS frames
            FROM predictions p CROSS JOIN LATERAL unnest(p.label_ids) AS d (label_id)
            WHERE p.scenario_id = s.id AND p.week = s.week GROUP BY d.label_id
        ) l) AS labels
FROM scenarios s WHERE s.id = ANY(CAST(:ids AS bigint[]))
"""


def summary(connection: Connection, scenario_id: int) -> Summary:
    """Count what a scenario has stored. Raises NotFoundError, Pruned."""
    found = summaries(connection, [scenario_id])
    if scenario_id not in found:
        raise no_such_scenario(scenario_id)
    one = found[scenario_id]
    if one is None:
        raise pruned(scenario_id)
    return one


def summaries(connection: Connection, ids: Sequence[int]) -> dict[int, Summary | None]:
    """Count what scenarios have stored, by id; None stands for one that was pruned."""
    known = [one for one in ids if 0 < one <= MAX_ID]
    times = timing.read(connection, known)
    found: dict[int, Summary | None] = {}
    for row in connection.execute(text(_SUMMARIES), {"ids": known}):
        labels = row.labels or []
        found[row.id] = (
            None
            if row.pruned
            else Summary(
                frames=row.frames,
                detections=sum(count for _, count, _ in labels),
                by_label={label: count for label, count, _ in labels},
                frames_with={label: frames for label, _, frames in labels},
                lost_frames=row.lost,
                seconds=times[row.id].ran if row.id in times else None,
            )
        )
    return found


def total(several: Iterable[Summary]) -> Summary:
    """Return the sums; `seconds` is the time of all runs together, at once or one by one."""
    labels: Counter[str] = Counter()
    frames_with: Counter[str] = Counter()
    frames = lost = 0
    seconds = 0.0
    for one in several:
        labels.update(one.by_label)
        frames_with.update(one.frames_with)
        frames, lost = frames + one.frames, lost + one.lost_frames
        seconds += one.seconds or 0.0
    by_label = dict(labels.most_common())
    return Summary(
        frames=frames,
        detections=sum(by_label.values()),
        by_label=by_label,
        frames_with={label: frames_with[label] for label in by_label},
        lost_frames=lost,
        seconds=seconds or None,
    )


def _week(connection: Connection, scenario_id: int) -> date:
    week: date | None = None
    if 0 < scenario_id <= MAX_ID:
        week = connection.execute(
            text("SELECT week FROM scenarios WHERE id = :id"), {"id": scenario_id}
        ).scalar()
    if week is None:
        raise no_such_scenario(scenario_id)
    return week


def detections(
    label_ids: Sequence[int],
    scores: Sequence[float],
    boxes: Sequence[float],
    track_ids: Sequence[int | None] | None,
    label_names: Sequence[str],
) -> tuple[Detection, ...]:
    """Return a frame's detections from its columns."""
    edges = iter(boxes)
    labels = map(label_names.__getitem__, label_ids)
    tracks = track_ids or [None] * len(scores)
    quads = zip(edges, edges, edges, edges, strict=True)
    return tuple(starmap(Detection, zip(quads, labels, scores, tracks, strict=True)))


def _json_number(value: float, digits: int) -> float | None:
    """Return a number for JSON, None for NaN and infinity, which JSON lacks."""
    return round(value, digits) if math.isfinite(value) else None
