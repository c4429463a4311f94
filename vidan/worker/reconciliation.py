"""What a heartbeat finds: the rows that a worker holds, compared with the runs that it has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vidan.domain.status import STOPPING
from vidan.errors import LeaseLost, RunStopped
from vidan.protocol.heartbeats import Held
from vidan.worker.slots import ClaimedRun

BEATS = 2
"""In so many heartbeats a row has been held without a run here: its claim's answer was lost."""


class Reconciliation:
    """Compares heartbeat by heartbeat, and remembers the rows that had no run in the last one."""

    def __init__(self) -> None:
        self._beats: dict[tuple[int, int], int] = {}  # by id and epoch

    def orphans(
        self, held: Sequence[Held], engaged: Collection[ClaimedRun], sent: float
    ) -> list[Held]:
        """Tell runs of stops and lost leases; return the rows that are to be put back.

        `sent` is the time (monotonic) at which the heartbeat was sent: what was claimed since
        can't be judged by it.
        """
        rows = {row.scenario_id: row for row in held}
        for engagement in engaged:
            row = rows.get(engagement.id)
            if engagement.since > sent:
                continue
            if row is None or row.epoch != engagement.claimed.fence.epoch:
                engagement.control.interrupt(LeaseLost(f"scenario {engagement.id} is another's"))
            elif row.status in STOPPING:
                engagement.control.interrupt(RunStopped("a stop was asked for"))
        known = {engagement.id for engagement in engaged}
        alone = {(row.scenario_id, row.epoch): row for row in held if row.scenario_id not in known}
        seen = {one: self._beats.get(one, 0) + 1 for one in alone}
        self._beats = {one: beats for one, beats in seen.items() if beats < BEATS}
        return [alone[one] for one, beats in seen.items() if beats >= BEATS]
