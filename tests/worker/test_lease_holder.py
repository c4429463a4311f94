"""The life of a worker's lease: registering, losing it with its runs, leaving."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.processes import eventually
from tests.support.stepped_worker import (
    ENDED,
    app,
    create,
    get,
    go_on,
    step_until,
)
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import DatabaseUnavailable
from vidan.processes.slotboard import SlotBoard
from vidan.protocol import expiry
from vidan.protocol.claims import Claimed
from vidan.run.run import Run
from vidan.tasks.app import Vidan
from vidan.worker import lease_holder
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.worker import Worker


class ProcessEnded(BaseException):
    """Stands for the end of the process."""


def test_a_database_that_is_away_while_it_puts_back_costs_no_slot(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was not handed over is held without a run: two heartbeats later it is."""
    lease = worker.lease
    assert lease is not None
    lease._stop.set()  # heartbeats are sent by this test
    worker._claims._ended.extend([float("inf")] * 4)  # four may be claimed ahead
    ids = [create(database, "waits") for _ in range(4)]
    worker._polling.claim_now = True
    worker.run_once()
    assert eventually(lambda: worker._slots.waiting == 2)

    def away(*_: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(worker._outcome_writer, "hand_over", away)
        with pytest.raises(DatabaseUnavailable):
            worker._lease_holder.hand_over_waiting(lease, "for a test")
    assert worker._slots.free == 0
    lease._beat()
    assert [get(database, one).status for one in ids].count(Status.ACTIVE) == 4
    lease._beat()
    statuses = [get(database, one).status for one in ids]
    assert sorted(statuses) == ["active", "active", "init_startup", "init_startup"]


def test_a_lease_that_has_ended_stops_its_runs_and_a_new_one_begins(
    worker: Worker, database: Database
) -> None:
    scenario_id = create(database, "waits")
    step_until(worker, database, scenario_id, Status.ACTIVE)
    former = worker.lease
    assert former is not None
    with database.begin() as connection:
        connection.execute(text("UPDATE workers SET lease_until = now()"))
        expiry.expire(connection, actor="orchestrator")
    former._end()  # as the heartbeat does when it finds no lease to renew
    worker.run_once()
    assert worker.lease is not None
    assert worker.lease.worker_id != former.worker_id

    def claimed_again() -> bool:
        worker.run_once()
        return get(database, scenario_id).epoch == 2

    assert eventually(claimed_again)
    assert get(database, scenario_id).crashes == 0
    go_on.set()
    assert step_until(worker, database, scenario_id, *ENDED).status is Status.COMPLETED


def test_asked_to_end_when_its_lease_has_ended_it_waits_for_its_runs(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"it ended itself with {code}"))
    scenario_id = create(database, "lingers")
    step_until(worker, database, scenario_id, Status.ACTIVE)
    assert worker.lease is not None
    worker.lease._end()
    worker.stopping = True

    worker.run_once()

    assert worker._slots.runs() == []
    assert worker.lease is None  # and it registers no more
    worker.stopping = False  # for the fixture


def test_a_renewal_that_landed_after_all_keeps_nothing_from_others(
    worker: Worker, database: Database
) -> None:
    scenario_id = create(database, "waits")
    step_until(worker, database, scenario_id, Status.ACTIVE)
    former = worker.lease
    assert former is not None
    former._end()  # by its own clock, while the database has just renewed it

    worker.run_once()

    assert worker.lease is not former
    with database.begin() as connection:
        (released,) = expiry.expire(connection, actor="orchestrator")
    assert (released.id, released.row.died) == (scenario_id, False)


def test_a_run_that_outlives_its_lease_is_not_to_blame_for_the_end_of_its_process(
    database_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: int) -> None:
        raise ProcessEnded

    monkeypatch.setattr(lease_holder, "ABANDON_SECONDS", 0.1)
    monkeypatch.setattr(os, "_exit", end)
    go_on.clear()
    board = SlotBoard.create(1)
    settings = Settings(home=tmp_path, database_url=database_url)
    worker = Worker(settings, WorkerOptions("w@test"), app.tasks, board)
    worker.run_once()  # publishes its tasks
    scenario_id = create(database, "stuck")
    step_until(worker, database, scenario_id, Status.ACTIVE)
    assert eventually(lambda: board.executing() == [scenario_id])
    assert worker.lease is not None
    worker.lease._end()

    with pytest.raises(ProcessEnded):
        worker.run_once()

    assert board.executing() == []  # as its supervisor will see it
    go_on.set()
    worker._slots.close()
    worker.lease.close()
    board.close()


def test_leaving_outlasts_the_runs_of_a_lease_that_has_ended(
    worker: Worker, database: Database
) -> None:
    """Left to the interpreter's end, one in the middle of native code aborts the process."""
    step_until(worker, database, create(database, "lingers"), Status.ACTIVE)
    assert worker.lease is not None
    worker.lease._end()
    worker.stopping = True
    worker.leave()
    assert worker._slots.runs() == []
    worker.stopping = False  # for the fixture


def test_leaving_outlasts_runs_that_could_not_be_put_back(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("for a test")

    step_until(worker, database, create(database, "lingers"), Status.ACTIVE)
    monkeypatch.setattr(OutcomeWriter, "write", fail)
    worker.stopping = True
    worker.leave()
    assert worker._slots.runs() == []
    worker.stopping = False


def test_a_claim_that_is_answered_after_the_end_of_the_lease_does_not_run_on(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped meanwhile: what ran was interrupted before this one was there."""
    create(database, "waits")
    engage = worker._claims._add

    def late(claimed: list[Claimed]) -> None:
        assert worker.lease is not None
        worker.lease._end()
        engage(claimed)

    monkeypatch.setattr(worker._claims, "_add", late)
    worker._polling.claim_now = True
    worker.run_once()
    assert eventually(lambda: worker._slots.free == 2, 5)


def test_leaving_puts_back_what_runs(worker: Worker, database: Database) -> None:
    ids = [create(database, "waits") for _ in range(2)]
    for one in ids:
        step_until(worker, database, one, Status.ACTIVE)
    worker.leave()
    for one in ids:
        found = get(database, one)
        assert (found.status, found.attempts, found.crashes) == (Status.INIT_STARTUP, 0, 0)
    with database.begin() as connection:
        assert connection.execute(text("SELECT state FROM workers")).scalar() == "gone"


def nothing(run: Run) -> None: ...


@pytest.mark.parametrize("quarantine", [False, True])
def test_a_process_of_an_older_version_takes_no_schedules_back(
    database: Database, database_url: str, tmp_path: Path, quarantine: bool
) -> None:
    settings = Settings(home=tmp_path, database_url=database_url)
    older, newer = Vidan(), Vidan()
    older.task(name="nightly", source=False, schedule="0 3 * * *")(nothing)
    newer.task(name="hourly", source=False, schedule="0 * * * *")(nothing)

    def published(app: Vidan, *, quarantine: bool = False) -> list[str]:
        options = WorkerOptions("w@test", app="m:app", quarantine=quarantine)
        Worker(settings, options, app.tasks).run_once()
        with database.begin() as connection:
            return list(connection.execute(text("SELECT name FROM schedules")).scalars())

    assert published(older) == ["nightly"]
    assert published(newer) == ["hourly"]
    assert published(older, quarantine=quarantine) == ["hourly"]
