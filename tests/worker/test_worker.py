"""A worker's loop, step by step in this process: what it writes, whatever a task does.

There is no broker here: the sweep alone finds the work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.processes import eventually
from tests.support.videos import encode
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import BrokerUnavailable, DatabaseUnavailable, HandOver, RejectedTask
from vidan.processes.slotboard import SlotBoard
from vidan.protocol import creation, expiry, lifecycle, tasks
from vidan.protocol.claims import Claimed
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import TaskSpec
from vidan.run.run import Run
from vidan.services import scenarios, steering
from vidan.tasks.app import Vidan
from vidan.worker import claiming, execution, lease_holder, polling
from vidan.worker import outcomes as outcomes_module
from vidan.worker import worker as worker_module
from vidan.worker.execution import Outcome
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.worker import Worker

app = Vidan()
go_on = threading.Event()
calls: list[int] = []
totals: dict[str, int] = {}
AWAY = [DatabaseUnavailable("no answer from other:5432"), BrokerUnavailable("no broker at other")]


class Unspeakable(Exception):
    """Its words fail."""

    def __str__(self) -> str:
        raise KeyError("no words")


ERRORS = {
    "nul": ValueError("a NUL\x00 here"),
    "surrogate": OSError("no such file: \udcff.mp4"),
    "long": RuntimeError("word " * 100_000),
    "silent": KeyError(),
    "exit": SystemExit(3),
    "unspeakable": Unspeakable(),
}


@app.task(name="echo", source=False, retries=0)
def echo(run: Run, value: Any = None) -> Any:
    return value


@app.task(name="breaks", source=False, retries=0)
def breaks(run: Run, how: str) -> None:
    raise ERRORS[how]


@app.task(name="fails", source=False, retries=1)
def fails(run: Run) -> None:
    raise ValueError("again")


@app.task(name="odd", source=False)
def odd(run: Run, what: str) -> Any:
    if what == "result":
        return "\x00"
    run.state["x"] = {"nul": "\x00", "object": object(), "nan": float("nan")}[what]
    return None


@app.task(name="waits", source=False)
def waits(run: Run) -> str:
    while not go_on.wait(0.01):
        run.progress()
    return "went on"


@app.task(name="looks", source=False)
def looks(run: Run) -> str:
    while not run.stopping:
        go_on.wait(0.01)
    return "left off"


@app.task(name="lingers", source=False)
def lingers(run: Run) -> None:
    try:
        waits(run)
    finally:
        time.sleep(0.5)


@app.task(name="stuck", source=False)
def stuck(run: Run) -> None:
    go_on.wait()


@app.task(name="one by one", source=False, concurrency=1)
def one_by_one(run: Run) -> None:
    time.sleep(0.01)


@app.task(name="forwards", source=False)
def forwards(run: Run) -> None:
    calls.append(run.scenario_id)
    raise AWAY[run.scenario_id % 2]


@app.task(name="sees")
def sees(run: Run) -> int:
    return sum(len(batch.indices) for batch in run.frames())


@app.task(name="adds up", source=False)
def adds_up(run: Run, camera: str) -> Any:
    """Returns and keeps what its next run changes."""
    totals[camera] = totals.get(camera, 0) + 1
    run.state["totals"] = totals
    return totals


class ProcessEnded(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[Worker]:
    """A worker of two slots."""
    go_on.clear()
    settings = Settings(home=tmp_path, database_url=database_url)
    made = Worker(settings, WorkerOptions("w@test", slots=2), app.tasks)
    made.run_once()
    yield made
    go_on.set()
    made.leave()
    made._slots.close()


@pytest.fixture
def may_write(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Ends are written once it is set."""
    write = OutcomeWriter.write
    may = threading.Event()

    def later(self: OutcomeWriter, where: Database, outcomes: Sequence[Outcome]) -> None:
        assert may.wait(30)
        write(self, where, outcomes)

    monkeypatch.setattr(OutcomeWriter, "write", later)
    return may


def create(database: Database, task: str, **params: Any) -> int:
    with database.begin() as connection:
        return creation.create(connection, NewScenario(task=task, params=params)).id


def get(database: Database, scenario_id: int) -> scenarios.Scenario:
    with database.begin() as connection:
        return scenarios.get(connection, scenario_id)


def step_until(worker: Worker, database: Database, scenario_id: int, *wanted: Status) -> Any:
    def reached() -> bool:
        worker.run_once()
        return get(database, scenario_id).status in wanted

    assert eventually(reached, 15), get(database, scenario_id)
    return get(database, scenario_id)


def is_paused(worker: Worker) -> bool:
    worker.run_once()
    return worker._polling._paused


ENDED = (Status.COMPLETED, Status.FAILED, Status.INACTIVE)


def test_a_task_runs_and_its_tasks_are_published(worker: Worker, database: Database) -> None:
    ended = step_until(worker, database, create(database, "echo", value={"n": [1, None]}), *ENDED)
    assert (ended.status, ended.result, ended.worker) == (Status.COMPLETED, {"n": [1, None]}, None)
    with database.begin() as connection:
        assert {spec.name for spec in tasks.find(connection)} == {"detect", *app.tasks}


@pytest.mark.parametrize("how", ERRORS)
def test_no_error_of_a_task_stops_the_worker(worker: Worker, database: Database, how: str) -> None:
    """Whatever an exception says, it is stored: a worker that can't would meet it for ever."""
    ended = step_until(worker, database, create(database, "breaks", how=how), *ENDED)
    assert ended.status is Status.FAILED
    assert ended.error.startswith(type(ERRORS[how]).__name__)
    assert len(ended.error) < 5_000
    assert ended.attempts == 1


@pytest.mark.parametrize("what", ["result", "nul", "object", "nan"])
def test_what_can_not_be_stored_fails_its_scenario(
    worker: Worker, database: Database, what: str
) -> None:
    ended = step_until(worker, database, create(database, "odd", what=what), *ENDED)
    assert ended.status is Status.FAILED
    assert "JSON" in ended.error


def test_a_failed_run_waits_and_is_tried_again(worker: Worker, database: Database) -> None:
    scenario_id = create(database, "fails")
    ended = step_until(worker, database, scenario_id, Status.FAILED)
    assert (ended.attempts, ended.error) == (2, "ValueError: again")
    with database.begin() as connection:
        changes = [one.to_status for one in scenarios.history(connection, scenario_id)]
    assert changes.count(Status.ACTIVE) == 2


@pytest.mark.parametrize("task", ["waits", "looks"])
def test_a_stop_reaches_a_task_without_frames_by_the_heartbeat(
    worker: Worker, database: Database, task: str
) -> None:
    scenario_id = create(database, task)
    step_until(worker, database, scenario_id, Status.ACTIVE)
    with database.begin() as connection:
        steering.stop(connection, scenario_id)
    assert worker.lease is not None
    worker.lease._beat()
    step_until(worker, database, scenario_id, Status.INACTIVE)


def test_what_waits_too_long_for_a_slot_is_put_back(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "AHEAD_SECONDS", 0.05)
    for value in range(20):  # it has finished so many lately: it claims ahead
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


def test_a_database_that_is_away_while_it_puts_back_costs_no_slot(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not put back is held without a run: two heartbeats later it is put back."""
    lease = worker.lease
    assert lease is not None
    lease._stop.set()  # it beats here when it is told to
    worker._claims._ended.extend([float("inf")] * 4)  # so many are claimed ahead
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


def test_what_can_not_be_written_keeps_more_from_being_claimed(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "AHEAD_PER_SLOT", 2)
    for value in range(4):  # it has finished so many lately: it claims ahead
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


def run_all(worker: Worker, count: int) -> None:
    """Step until so many have ended and are not written."""

    def ran() -> bool:
        worker._polling.claim_now = True
        worker.run_once()
        return worker._slots.unwritten == count

    assert eventually(ran, 15)


def test_ends_that_are_too_large_for_one_statement_are_written_in_several(
    worker: Worker,
    database: Database,
    may_write: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the statement runs out of time, and what is written once more is no smaller."""
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
    assert len(written) <= 5  # the first one that ended, and three of two; small ones go along


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


def test_who_meets_a_database_or_a_broker_that_is_away_is_tried_again_after_a_pause(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another deployment's: else it would run again and again, hundreds a second."""
    monkeypatch.setattr(execution, "UNAVAILABLE_SECONDS", 60.0)
    calls.clear()
    ids = [create(database, "forwards") for _ in range(2)]

    def reasons() -> set[str | None]:
        worker._polling.claim_now = True
        worker.run_once()
        with database.begin() as connection:
            return {scenarios.history(connection, one)[-1].reason for one in ids}

    assert eventually(
        lambda: reasons() == {f"requeued, due in 60 s: {error}" for error in AWAY}, 15
    )
    for _ in range(20):
        reasons()
    assert sorted(calls) == ids
    for one in ids:
        found = get(database, one)
        assert (found.status, found.attempts, found.crashes) == (Status.INIT_STARTUP, 0, 0)


def test_who_could_not_begin_without_the_database_goes_on_when_it_is_back(
    worker: Worker, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = lifecycle.start
    errors = [DatabaseUnavailable("for a test")]

    def away(*args: Any, **options: Any) -> dict[int, Status]:
        if errors:
            raise errors.pop()
        return start(*args, **options)

    monkeypatch.setattr(execution, "UNAVAILABLE_SECONDS", 60.0)
    monkeypatch.setattr(lifecycle, "start", away)
    new = NewScenario(str(encode(tmp_path / "a.mp4", 10)), "sees")
    with database.begin() as connection:
        scenario_id = creation.create(connection, new).id
    ended = step_until(worker, database, scenario_id, *ENDED)
    assert (ended.status, ended.result, ended.epoch) == (Status.COMPLETED, 10, 2)


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
    worker.run_once()  # claims it anew
    assert get(database, scenario_id).epoch == 2
    again.set()  # and the outcome of the old run is written a second time
    epochs = [2]
    assert eventually(lambda: [one.claimed.fence.epoch for one in worker._slots.runs()] == epochs)
    go_on.set()
    ended = step_until(worker, database, scenario_id, *ENDED)
    assert (ended.status, ended.result) == (Status.COMPLETED, "went on")
    assert worker._slots.free == 2


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


def test_a_rejected_task_is_not_tried_again(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ERRORS, "nul", RejectedTask("it never will"))
    scenario_id = create(database, "breaks", how="nul")
    ended = step_until(worker, database, scenario_id, *ENDED)
    assert (ended.status, ended.error, ended.attempts) == (Status.FAILED, "it never will", 0)


def nothing(run: Run) -> None: ...


@pytest.mark.parametrize("quarantine", [False, True])
def test_a_process_for_suspects_publishes_no_schedules(
    database: Database, database_url: str, tmp_path: Path, quarantine: bool
) -> None:
    """It is started by the way; a newer version of the app may have published others since."""
    scheduled = Vidan()
    scheduled.task(name="nightly", source=False, schedule="0 3 * * *")(nothing)
    settings = Settings(home=tmp_path, database_url=database_url)
    options = WorkerOptions("w@test", app="m:app", quarantine=quarantine)
    Worker(settings, options, scheduled.tasks).run_once()
    with database.begin() as connection:
        names = connection.execute(text("SELECT name FROM schedules")).scalars().all()
    assert names == ([] if quarantine else ["nightly"])


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
