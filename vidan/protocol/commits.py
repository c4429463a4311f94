"""The commit: predictions, checkpoint and the task's state in one transaction, under a fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

import psycopg
import psycopg.types.json
from sqlalchemy import Connection, text

from vidan.domain.detection import Gap
from vidan.domain.status import Status
from vidan.errors import LeaseLost
from vidan.protocol.fences import Fence


@dataclass(frozen=True, slots=True)
class Row:
    """The detections of one frame, as they are stored.

    `label_ids` are indices into the scenario's label names. `boxes` are x1, y1, x2, y2 of each
    detection in turn, in pixels of the source's frame. `extra` is what the task stores beside
    them: an object as JSON text.
    """

    frame: int
    time_ms: int
    label_ids: Sequence[int]
    scores: Sequence[float]
    boxes: Sequence[float]
    track_ids: Sequence[int | None] | None = None
    extra: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The content of one commit: from one checkpoint to the next, with the frames between them.

    `state` is the task's own state, as JSON text, after the task had processed these frames.
    """

    from_checkpoint: int
    to_checkpoint: int
    checkpoint_pts: int | None
    state: str
    label_names: Sequence[str]
    rows: Sequence[Row]
    gaps: Sequence[Gap] = ()
    frames_total: int | None = None
    restart: tuple[int, int] | None = None  # a key frame's packet, and its number
    source_info: str | None = None  # what is known about the video, as JSON text
    notes: Sequence[str] = ()  # about the source; those that are stored already are left out
    clear_budgets: bool = False  # the run made progress: attempts and crashes start at 0 again


_COMMIT = """
UPDATE scenarios SET checkpoint = :to, checkpoint_pts = :pts,
       restart_packet = :restart_packet, restart_frame = :restart_frame,
       state = CAST(:state AS jsonb),
       label_names = CAST(:label_names AS text[]), frames_total = :frames_total,
       frames_done = frames_done + :frames,
       source_info = coalesce(CAST(:source_info AS jsonb), source_info),
       notes = notes || ARRAY(
           SELECT note FROM unnest(CAST(:notes AS text[])) AS note WHERE note <> ALL (notes)
       ),
       attempts = CASE WHEN :clear THEN 0 ELSE attempts END,
       crashes = CASE WHEN :clear THEN 0 ELSE crashes END
WHERE id = :id AND epoch = :epoch AND worker_id = :worker AND checkpoint = :from
  AND status IN ('active', 'init_shutdown', 'in_shutdown_processing')
RETURNING status, week
"""

_COPY = (
    "COPY predictions (scenario_id, frame, week, time_ms, label_ids, scores, boxes, track_ids,"
    " extra) FROM STDIN (FORMAT BINARY)"
)

_COPY_TYPES = ["int8", "int8", "date", "int8", "int2[]", "float4[]", "float4[]", "int4[]", "jsonb"]


def commit(connection: Connection, fence: Fence, batch: Batch) -> Status:
    """Move predictions, checkpoint and the task's own state in one transaction, under the fence.

    Returns the scenario's status: `init_shutdown` makes this commit the last one. Raises LeaseLost
    when the worker has lost the scenario. When an earlier try of the same batch was committed and
    only its answer was lost, nothing is written again.
    """
    updated = connection.execute(
        text(_COMMIT),
        {
            "id": fence.scenario_id,
            "epoch": fence.epoch,
            "worker": fence.worker_id,
            "from": batch.from_checkpoint,
            "to": batch.to_checkpoint,
            "pts": batch.checkpoint_pts,
            "restart_packet": batch.restart and batch.restart[0],
            "restart_frame": batch.restart and batch.restart[1],
            "state": batch.state,
            "label_names": list(batch.label_names),
            "frames_total": batch.frames_total,
            "frames": len(batch.rows),
            "source_info": batch.source_info,
            "notes": list(batch.notes),
            "clear": batch.clear_budgets,
        },
    ).one_or_none()
    if updated is None:
        return _status_if_stored(connection, fence, batch)
    if batch.rows:
        _copy(connection, fence.scenario_id, updated.week, batch.rows)
    if batch.gaps:
        _insert_gaps(connection, fence.scenario_id, batch.gaps)
    return Status(updated.status)


def _insert_gaps(connection: Connection, scenario_id: int, gaps: Sequence[Gap]) -> None:
    connection.execute(
        text(
            "INSERT INTO gaps (scenario_id, from_frame, to_frame, reason)"
            " VALUES (:id, :from, :to, :reason) ON CONFLICT (scenario_id, from_frame)"
            " DO UPDATE SET to_frame = greatest(gaps.to_frame, excluded.to_frame)"
        ),
        [
            {
                "id": scenario_id,
                "from": gap.from_frame,
                "to": gap.to_frame,
                "reason": gap.reason,
            }
            for gap in gaps
        ],
    )


def _status_if_stored(connection: Connection, fence: Fence, batch: Batch) -> Status:
    """Return the scenario's status if an earlier try of this batch was committed.

    Raises LeaseLost otherwise.
    """
    row = connection.execute(
        text(
            "SELECT status, checkpoint FROM scenarios"
            " WHERE id = :id AND epoch = :epoch AND worker_id = :worker"
        ),
        {"id": fence.scenario_id, "epoch": fence.epoch, "worker": fence.worker_id},
    ).one_or_none()
    # If the batch does not move the checkpoint, it would match even after it was stored.
    if row is None or not batch.from_checkpoint < batch.to_checkpoint == row.checkpoint:
        raise LeaseLost(f"this worker has lost scenario {fence.scenario_id}")
    return Status(row.status)


def _copy(connection: Connection, scenario_id: int, week: date, rows: Sequence[Row]) -> None:
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_COPY_TYPES)
        for row in rows:
            copy.write_row(
                (
                    scenario_id,
                    row.frame,
                    week,
                    row.time_ms,
                    row.label_ids,
                    row.scores,
                    row.boxes,
                    row.track_ids,
                    None if row.extra is None else psycopg.types.json.Jsonb(row.extra, dumps=str),
                )
            )
