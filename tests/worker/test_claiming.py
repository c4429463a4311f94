"""When a worker claims, what it claims ahead, and what it hands over again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from tests.support.processes import eventually
from tests.support.stepped_worker import create, get, go_on, step_until
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import tasks
from vidan.protocol.tasks import TaskSpec
from vidan.worker import claiming, polling
from vidan.worker import worker as worker_module
from vidan.worker.execution import Outcome
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.worker import Worker


def is_paused(worker: Worker) -> bool:
    worker.run_once()
    return worker._polling._paused


def test_what_waits_too_long_for_a_slot_is_put_back(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "AHEAD_SECONDS", 0.05)
    for value in range(20):  # it claims ahead as many as ended recently
        step_until(worker, database, create(database, "echo", value=value), Status.COMPLETED)
    ids = [create(database, "waits") for _ in range(6)]
    worker._polling.claim_now = True
    worker.run_once()
    time.sleep(0.1)
    assert worker.lease is not None
    worker._lease_holder.hand_over_waiting(worker.lease, "for a test", worker_module.AHEAD_SECONDS)
    statuses = [get(database, one).status for one in ids]
    assert statuses.count(Status.ACTIVE) == 2
    assert statuses.count(Status.INIT_STARTUP) == 4
    assert {get(database, one).attempts for one in ids} == {0}
    assert worker._slots.free == 0


def test_what_can_not_be_written_keeps_more_from_being_claimed(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "AHEAD_PER_SLOT", 2)
    for value in range(4):  # it claims ahead as many as ended recently
        step_until(worker, database, create(database, "echo", value=value), Status.COMPLETED)
    monkeypatch.setattr(claiming, "UNWRITTEN_PER_SLOT", 2)
    ids = [create(database, "echo", value=value) for value in range(30)]

    def away(*_: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(worker._outcome_writer, "write", away)
        for _ in range(40):
            worker._polling.claim_now = True
            worker.run_once()
        assert eventually(lambda: worker._slots.waiting == 0)
        waiting = [one for one in ids if get(database, one).status is Status.INIT_STARTUP]
        assert len(waiting) > 10
    for one in ids:
        step_until(worker, database, one, Status.COMPLETED)


def test_claims_go_on_while_ends_are_written(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = OutcomeWriter.write
    begun, go = threading.Event(), threading.Event()

    def slowly(self: OutcomeWriter, where: Database, outcomes: Sequence[Outcome]) -> None:
        begun.set()
        assert go.wait(30)
        write(self, where, outcomes)

    monkeypatch.setattr(OutcomeWriter, "write", slowly)
    first = create(database, "echo", value=1)
    step_until(worker, database, first, Status.ACTIVE)
    assert begun.wait(10)
    other = create(database, "waits")
    step_until(worker, database, other, Status.ACTIVE)
    assert get(database, first).status is Status.ACTIVE  # it has ended, and that is not stored
    go.set()
    step_until(worker, database, first, Status.COMPLETED)


def test_a_capped_task_goes_on_as_soon_as_its_end_is_written(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next one is claimed when the database knows that there is room, not a sweep later."""
    write = OutcomeWriter.write

    def slowly(self: OutcomeWriter, where: Database, outcomes: Sequence[Outcome]) -> None:
        time.sleep(0.2)
        write(self, where, outcomes)

    monkeypatch.setattr(OutcomeWriter, "write", slowly)
    monkeypatch.setattr(polling, "SWEEP_SECONDS", 60.0)
    ids = [create(database, "one by one") for _ in range(5)]
    worker._polling.claim_now = True
    step_until(worker, database, ids[-1], Status.COMPLETED)
    assert {get(database, one).status for one in ids} == {Status.COMPLETED}


def test_after_a_pause_it_sweeps_more_often(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that was paused may hear of nothing for a second."""
    monkeypatch.setattr(polling, "SWEEP_SECONDS", 16.0)
    monkeypatch.setattr(polling, "DEAF_SECONDS", 60.0)
    ids = [create(database, "waits") for _ in range(2)]
    worker._polling.claim_now = True
    for one in ids:
        step_until(worker, database, one, Status.ACTIVE)
    assert eventually(lambda: is_paused(worker), 5)
    go_on.set()
    for one in ids:
        step_until(worker, database, one, Status.COMPLETED)
    assert eventually(lambda: not is_paused(worker), 5)
    worker.run_once()  # the claim that follows an end finds nothing
    began = time.monotonic()
    step_until(worker, database, create(database, "echo", value=1), Status.COMPLETED)
    assert time.monotonic() - began < 8  # else 12 at least


def test_a_task_that_the_worker_lacks_is_left_to_others_and_told_once(
    worker: Worker, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [TaskSpec("elsewhere", {}, needs_source=False)])
    ids = [create(database, "elsewhere") for _ in range(2)]

    def told() -> list[str]:
        worker._claims._next_warning = 0.0  # it looks at each sweep
        worker.run_once()
        return [one for one in caplog.messages if "elsewhere" in one]

    assert eventually(lambda: bool(told()), 15)
    for _ in range(20):
        worker._polling._next_sweep = 0.0
        told()
    assert told() == ["task elsewhere is left to others: this worker does not have it"]
    assert {get(database, one).status for one in ids} == {Status.INIT_STARTUP}
