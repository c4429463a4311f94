"""The fence that every write of a running scenario names, and the rows that are still its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID


class Fence(NamedTuple):
    """What every write of a running scenario names: who claimed it, and under which epoch."""

    scenario_id: int
    epoch: int
    worker_id: UUID


# mine: the rows of these fences that still belong to them, locked in the order of their ids. Each
# is looked up by its id: planned as a join, all rows of a status were read, dead ones too; with an
# equality of workers, after statistics of when nobody held any, all that the worker holds for each
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
    """Return fences as the JSON that MINE reads; `extra` are each one's own members, as JSON."""
    members = [f", {more}" for more in extra] or [""] * len(fences)
    names = {fence.worker_id: str(fence.worker_id) for fence in fences}  # mostly one
    rows = (
        f'{{"scenario_id": {fence.scenario_id}, "fence_epoch": {fence.epoch},'
        f' "fence_worker": "{names[fence.worker_id]}"{more}}}'
        for fence, more in zip(fences, members, strict=True)
    )
    return f"[{', '.join(rows)}]"
