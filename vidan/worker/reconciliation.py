"""Compares the rows that a worker holds, as a heartbeat reads them, with the runs that it has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from vidan.domain.status import STOPPING
from vidan.errors import LeaseLost, RunStopped
from vidan.protocol.heartbeats import Held
from vidan.worker.slots import ClaimedRun

BEATS = 2
"""After this many heartbeats that found a row without a run, the answer to its claim was lost."""


class Reconciliation:
    """Compares at each heartbeat, and remembers the rows that had no run at the last one."""

    def __init__(self) -> None:
        self._beats: dict[tuple[int, int], int] = {}  # by id and epoch

    def rows_without_run(
        self, held: Sequence[Held], runs: Collection[ClaimedRun], sent: float
    ) -> list[Held]:
        """Interrupt runs that were stopped or lost; return the rows that have to be handed over.

        `sent` is the time (monotonic) at which the heartbeat was sent: it says nothing about runs
        that were claimed later.
        """
        _interrupt_runs(held, (run for run in runs if run.since <= sent))
        known = {run.id for run in runs}
        alone = {(row.scenario_id, row.epoch): row for row in held if row.scenario_id not in known}
        seen = {one: self._beats.get(one, 0) + 1 for one in alone}
        self._beats = {one: beats for one, beats in seen.items() if beats < BEATS}
        return [alone[one] for one, beats in seen.items() if beats >= BEATS]


def _interrupt_runs(held: Sequence[Held], runs: Iterable[ClaimedRun]) -> None:
    rows = {row.scenario_id: row for row in held}
    for run in runs:
        row = rows.get(run.id)
        if row is None or row.epoch != run.claimed.fence.epoch:
            run.control.interrupt(LeaseLost(f"this worker no longer holds scenario {run.id}"))
        elif row.status in STOPPING:
            run.control.interrupt(RunStopped("a stop was asked for"))
