"""Fences: every write of a running scenario names one, and changes only rows that still match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID


class Fence(NamedTuple):
    """A scenario, the worker that claimed it, and the epoch of that claim."""

    scenario_id: int
    epoch: int
    worker_id: UUID


# The rows that still match their fences, locked in the order of their ids. Each row is looked up by
# its id. Planned as a join, the statement read all rows of a status, dead ones included. With
# `worker_id = fence_worker`, and statistics from a time when no worker held a scenario, it read all
# rows of the worker for each fence; `IS NOT DISTINCT FROM` can't use that index.
MINE = """
    SELECT s.*, f.* FROM (
        SELECT * FROM jsonb_to_recordset(CAST(:fences AS jsonb)) AS r
        (scenario_id bigint, fence_epoch bigint, fence_worker uuid{columns})
        ORDER BY scenario_id
    ) f CROSS JOIN LATERAL (
        SELECT s.id, s.status, s.crashes, s.max_crashes, s.attempts, s.max_attempts
        FROM scenarios s
        WHERE s.id = f.scenario_id AND s.epoch = f.fence_epoch
          AND s.worker_id IS NOT DISTINCT FROM f.fence_worker
          AND s.status IN ({statuses})
        FOR NO KEY UPDATE
    ) s
"""


def fence_rows(fences: Sequence[Fence], *extra: str) -> str:
    """Return fences as the JSON that MINE reads; `extra` are more members, as JSON, one a fence."""
    members = [f", {more}" for more in extra] or [""] * len(fences)
    names = {fence.worker_id: str(fence.worker_id) for fence in fences}  # mostly a single worker
    rows = (
        f'{{"scenario_id": {fence.scenario_id}, "fence_epoch": {fence.epoch},'
        f' "fence_worker": "{names[fence.worker_id]}"{more}}}'
        for fence, more in zip(fences, members, strict=True)
    )
    return f"[{', '.join(rows)}]"
