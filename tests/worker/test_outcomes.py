"""How the ends of runs are written, whatever the database answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.processes import eventually
from tests.support.stepped_worker import (
    ENDED,
    create,
    get,
    go_on,
    run_all,
    step_until,
    totals,
)
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable, HandOver
from vidan.protocol import lifecycle
from vidan.worker import outcomes as outcomes_module
from vidan.worker.execution import Outcome
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.worker import Worker


def test_an_error_that_nobody_foresaw_only_delays_what_is_written(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = OutcomeWriter.write
    errors = [RuntimeError("for a test"), DatabaseUnavailable("for a test")]

    def failing(self: OutcomeWriter, where: Database, outcomes: Sequence[Outcome]) -> None:
        if errors:
            raise errors.pop()
        write(self, where, outcomes)

    monkeypatch.setattr(OutcomeWriter, "write", failing)
    step_until(worker, database, create(database, "echo", value=1), Status.COMPLETED)
    assert not errors
    assert worker._slots.free == 2


def test_ends_that_are_too_large_for_one_statement_are_written_in_several(
    worker: Worker,
    database: Database,
    may_write: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the statement times out, and each further attempt is as large."""
    finish = lifecycle.finish
    written: list[int] = []

    def timing_out(connection: Any, endings: Sequence[lifecycle.Ending], *, actor: str) -> set[int]:
        if sum(len(str(one.result)) for one in endings) > 1_000_000:
            raise DatabaseUnavailable("canceling statement due to statement timeout")
        written.append(len(endings))
        return finish(connection, endings, actor=actor)

    monkeypatch.setattr(outcomes_module, "STATEMENT_BYTES", 1_000_000)
    monkeypatch.setattr(lifecycle, "finish", timing_out)
    large = [create(database, "echo", value="x" * 400_000) for _ in range(6)]
    small = [create(database, "echo", value="x") for _ in range(20)]
    run_all(worker, 26)
    may_write.set()
    for one in large + small:
        assert len(step_until(worker, database, one, *ENDED).result) in (400_000, 1)
    assert sum(written) == 26
    assert len(written) <= 5  # one large outcome first, then two at a time, small ones beside them


def test_what_a_run_returned_is_not_changed_by_the_next_one(
    worker: Worker, database: Database, may_write: threading.Event
) -> None:
    totals.clear()
    worker._claims.scale(1)
    ids = [create(database, "adds up", camera=camera) for camera in ("north", "south")]
    run_all(worker, 2)
    may_write.set()
    first, second = (step_until(worker, database, one, *ENDED) for one in ids)
    assert first.result == first.state["totals"] == {"north": 1}
    assert second.result == second.state["totals"] == {"north": 1, "south": 1}


def test_a_lost_answer_of_a_hand_over_does_not_take_the_next_run_of_it(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, answer lost, claimed again by the same worker, and then written a second time."""
    scenario_id = create(database, "waits")
    step_until(worker, database, scenario_id, Status.ACTIVE)
    write = OutcomeWriter.write
    lost: list[int] = []
    again = threading.Event()

    def losing(self: OutcomeWriter, where: Database, outcomes: Sequence[Outcome]) -> None:
        if lost:
            assert again.wait(30)
        write(self, where, outcomes)
        if not lost:
            lost.append(1)
            raise DatabaseUnavailable("the answer was lost")

    monkeypatch.setattr(OutcomeWriter, "write", losing)
    worker._slots.runs()[0].control.interrupt(HandOver("for a test"))
    assert eventually(lambda: get(database, scenario_id).status is Status.INIT_STARTUP)
    worker._polling.claim_now = True
    worker.run_once()  # claims it again
    assert get(database, scenario_id).epoch == 2
    again.set()  # and the outcome of the old run is written a second time
    epochs = [2]
    assert eventually(lambda: [one.claimed.fence.epoch for one in worker._slots.runs()] == epochs)
    go_on.set()
    ended = step_until(worker, database, scenario_id, *ENDED)
    assert (ended.status, ended.result) == (Status.COMPLETED, "went on")
    assert worker._slots.free == 2
