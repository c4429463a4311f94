"""What a heartbeat finds, compared with the runs that a worker has."""

from __future__ import annotations

from vidan.domain.status import Status
from vidan.protocol.heartbeats import Held
from vidan.worker.reconciliation import BEATS, Reconciliation


def row(scenario_id: int, epoch: int) -> Held:
    return Held(scenario_id, epoch, Status.ACTIVE)


def test_a_row_without_a_run_is_put_back_after_some_beats() -> None:
    reconciliation = Reconciliation()
    found = [reconciliation.rows_without_run([row(7, 1)], [], 0.0) for _ in range(BEATS)]
    assert found == [*[[]] * (BEATS - 1), [row(7, 1)]]


def test_beats_of_an_epoch_do_not_count_for_the_next() -> None:
    """Its outcome was written and it was claimed again; the answer to that claim is on its way."""
    reconciliation = Reconciliation()
    assert reconciliation.rows_without_run([row(7, 1)], [], 0.0) == []
    assert reconciliation.rows_without_run([row(7, 2)], [], 0.0) == []
