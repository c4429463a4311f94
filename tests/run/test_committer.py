"""A run's committer on a real database: order, flush, stops, and an unavailable database."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.detection import Detection, Gap
from vidan.domain.status import Status
from vidan.errors import (
    CommitFailed,
    HandOver,
    LeaseLost,
    RejectedTask,
    RunInterrupted,
    RunStopped,
)
from vidan.protocol import creation, lifecycle
from vidan.protocol.claims import Claimed
from vidan.protocol.creation import NewScenario
from vidan.run import committer as commits
from vidan.run.committer import Committer, FinishedFrames, LabelNames
from vidan.run.control import RunControl
from vidan.services import predictions, scenarios, steering


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    """A worker; it holds the active scenario `claimed`."""
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    return PlayedWorker(database)


@pytest.fixture
def claimed(worker: PlayedWorker) -> Claimed:
    (found,) = worker.take()
    with worker.database.begin() as connection:
        lifecycle.start(connection, [found.fence], actor="w")
    return found


@pytest.fixture
def control() -> RunControl:
    return RunControl()


@pytest.fixture
def guarded(worker: PlayedWorker, database_url: str) -> Iterator[Database]:
    """The database as a worker opens it: its sessions carry its id."""
    opened = Database(database_url, application_name=str(worker.id), guarded=True)
    yield opened
    opened.close()


@pytest.fixture
def committer(guarded: Database, claimed: Claimed, control: RunControl) -> Iterator[Committer]:
    made = Committer(guarded, claimed, control)
    yield made
    made.close()


def done(
    committer: Committer, frames: Sequence[int], *, gaps: Sequence[Gap] = (), to: int | None = None
) -> FinishedFrames:
    found = [Detection((1.0, 2.0, 3.0, 4.0), "person", 0.5)]
    end = frames[-1] + 1 if to is None else to
    return FinishedFrames(
        rows=[committer.labels.row(frame, frame * 40, found) for frame in frames],
        gaps=gaps,
        next_frame=end,
        next_pts=end * 100,
        state=json.dumps({"n": end}),
        frames_total=None,
    )


def stored(database: Database, claimed: Claimed) -> list[int]:
    with database.begin() as connection:
        found = predictions.read_after(connection, claimed.fence.scenario_id, -1, limit=1_000_000)
    return [one.frame for one in found]


def scenario(database: Database, claimed: Claimed) -> scenarios.Scenario:
    with database.begin() as connection:
        return scenarios.get(connection, claimed.fence.scenario_id)


def end_sessions(url: str, worker: PlayedWorker) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [str(worker.id)],
        ).rowcount


# --- in order, one at a time


def test_all_is_stored_in_order_with_the_state_of_its_time(
    committer: Committer, database: Database, claimed: Claimed
) -> None:
    for start in range(0, 30, 3):
        committer.add(done(committer, range(start, start + 3)))
    committer.flush()
    found = scenario(database, claimed)
    assert stored(database, claimed) == list(range(30))
    assert (found.checkpoint, found.state, found.frames_done) == (30, {"n": 30}, 30)
    committer.add(done(committer, [30], gaps=[Gap(31, 35, "damage")], to=36))
    committer.flush()
    assert scenario(database, claimed).checkpoint == 36
    assert predictions_lost(database, claimed) == 5


def predictions_lost(database: Database, claimed: Claimed) -> int:
    with database.begin() as connection:
        return predictions.summary(connection, claimed.fence.scenario_id).lost_frames


def test_a_flush_with_nothing_to_store_returns(committer: Committer) -> None:
    committer.flush()
    committer.add(done(committer, [0]))
    committer.flush()
    committer.flush()


def test_commits_come_about_once_a_second_unasked(
    committer: Committer, database: Database, claimed: Claimed
) -> None:
    committer.add(done(committer, [0, 1]))
    assert eventually(lambda: stored(database, claimed) == [0, 1])


def test_many_frames_are_not_kept_waiting(
    committer: Committer,
    database: Database,
    claimed: Claimed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 60.0)
    monkeypatch.setattr(commits, "COMMIT_FRAMES", 50)
    committer.add(done(committer, range(40)))
    committer.add(done(committer, range(40, 60)))
    assert eventually(lambda: len(stored(database, claimed)) == 60)


def test_what_was_not_flushed_is_not_stored(
    committer: Committer, database: Database, claimed: Claimed
) -> None:
    committer.add(done(committer, [0]))
    committer.close()
    assert stored(database, claimed) == []
    assert scenario(database, claimed).checkpoint == 0


# --- ends


def test_a_stop_arrives_with_the_next_commit(
    committer: Committer, database: Database, claimed: Claimed, control: RunControl
) -> None:
    with database.begin() as connection:
        steering.stop(connection, claimed.fence.scenario_id)
    committer.add(done(committer, [0]))
    committer.flush()
    assert isinstance(control.interruption, RunStopped)
    committer.add(done(committer, [1]))  # frames done before the interruption are stored
    committer.flush()
    assert stored(database, claimed) == [0, 1]


def test_a_lost_lease_ends_the_run_and_stores_nothing(
    committer: Committer,
    database: Database,
    claimed: Claimed,
    control: RunControl,
    worker: PlayedWorker,
) -> None:
    with database.begin() as connection:
        lifecycle.hand_over(connection, [claimed.fence], reason="r", actor="w")
    committer.add(done(committer, [0]))
    with pytest.raises(LeaseLost):
        committer.flush()
    assert isinstance(control.interruption, LeaseLost)
    committer.add(done(committer, [1]))
    with pytest.raises(LeaseLost):
        committer.flush()
    assert stored(database, claimed) == []


def test_what_no_reconnect_mends_is_an_error_of_the_run(
    committer: Committer, database: Database, claimed: Claimed, control: RunControl
) -> None:
    committer.add(done(committer, [0, 0]))  # a frame twice
    with pytest.raises(CommitFailed, match="storing failed"):
        committer.flush()
    assert stored(database, claimed) == []


def test_a_lost_lease_outweighs_what_came_before() -> None:
    control = RunControl()
    control.check()
    first: RunInterrupted = HandOver("leaving")
    control.interrupt(first)
    control.interrupt(RunStopped("stop"))
    assert control.interruption is first
    lost = LeaseLost("lost")
    control.interrupt(lost)
    control.interrupt(HandOver("leaving"))
    assert control.interruption is lost
    with pytest.raises(LeaseLost):
        control.check()


# --- progress


def test_the_second_commit_that_moves_the_checkpoint_proves_progress(
    guarded: Database, claimed: Claimed, control: RunControl
) -> None:
    told: list[int] = []
    with guarded.begin() as connection:
        connection.execute(text("UPDATE scenarios SET attempts = 2, crashes = 3"))
    committer = Committer(guarded, claimed, control, on_progress=lambda: told.append(1))

    def budgets_after(one: FinishedFrames) -> tuple[int, int]:
        committer.add(one)
        committer.flush()
        found = scenario(guarded, claimed)
        return found.attempts, found.crashes

    assert budgets_after(done(committer, [0])) == (2, 3)
    assert budgets_after(done(committer, [], gaps=[Gap(1, 1, "damage")], to=1)) == (2, 3)
    assert told == []
    assert budgets_after(done(committer, [2])) == (0, 0)
    assert budgets_after(done(committer, [3])) == (0, 0)
    assert told == [1]
    committer.close()


def test_a_live_source_proves_progress_by_its_time_alone(
    guarded: Database, claimed: Claimed, control: RunControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded.begin() as connection:
        connection.execute(text("UPDATE scenarios SET attempts = 2"))
    committer = Committer(guarded, claimed, control, live=True)
    for frame in range(3):
        committer.add(done(committer, [frame]))
        committer.flush()
    assert scenario(guarded, claimed).attempts == 2
    monkeypatch.setattr(commits, "LIVE_PROGRESS_SECONDS", 0.0)
    committer.add(done(committer, [3]))
    committer.flush()
    assert scenario(guarded, claimed).attempts == 0
    committer.close()


# --- an unavailable database


def test_sessions_that_are_ended_cost_nothing(
    committer: Committer,
    database: Database,
    database_url: str,
    claimed: Claimed,
    worker: PlayedWorker,
    control: RunControl,
) -> None:
    ended = 0
    for start in range(0, 60, 3):
        committer.add(done(committer, range(start, start + 3)))
        ended += end_sessions(database_url, worker)
        committer.flush()
    assert ended >= 10
    assert control.interruption is None
    assert stored(database, claimed) == list(range(60))


def test_an_answer_that_was_lost_stores_nothing_twice(
    committer: Committer,
    guarded: Database,
    database: Database,
    database_url: str,
    claimed: Claimed,
    worker: PlayedWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The transaction has committed, and the connection breaks before its answer arrives."""
    lost: list[bool] = []
    retrying = guarded.retrying

    def losing(work: Callable[..., Status], *arguments: Any) -> Status:
        found = retrying(work, *arguments)
        if not lost:
            lost.append(True)
            end_sessions(database_url, worker)
            retrying(lambda c: c.execute(text("SELECT pg_terminate_backend(pg_backend_pid())")))
        return found

    monkeypatch.setattr(guarded, "retrying", losing)
    committer.add(done(committer, range(5)))
    committer.flush()
    assert lost
    assert stored(database, claimed) == list(range(5))
    assert scenario(database, claimed).frames_done == 5


def test_while_a_row_is_locked_the_run_goes_on_and_is_stored_later(
    committer: Committer, database: Database, claimed: Claimed
) -> None:
    with database.begin() as connection:
        connection.execute(text("SELECT 1 FROM scenarios FOR UPDATE"))
        for frame in range(5):
            committer.add(done(committer, [frame]))  # `add` waits for no row
        time.sleep(1.2)
        committer.add(done(committer, [5]))
    committer.flush()
    assert stored(database, claimed) == list(range(6))


def test_the_buffer_has_a_bound(
    committer: Committer,
    database: Database,
    claimed: Claimed,
    control: RunControl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "BUFFER_FRAMES", 20)
    monkeypatch.setattr(commits, "COMMIT_FRAMES", 10)
    added: list[int] = []

    def work() -> None:
        for frame in range(0, 100, 10):
            committer.add(done(committer, range(frame, frame + 10)))
            added.append(frame)

    with database.begin() as connection:
        connection.execute(text("SELECT 1 FROM scenarios FOR UPDATE"))
        run = threading.Thread(target=work)
        run.start()
        time.sleep(0.7)
        assert len(added) < 6
        assert run.is_alive()
    run.join(30)
    committer.flush()
    assert len(stored(database, claimed)) == 100


def test_a_run_that_waits_for_room_ends_with_its_lease(
    committer: Committer,
    database: Database,
    claimed: Claimed,
    control: RunControl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "BUFFER_FRAMES", 5)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            for frame in range(0, 100, 10):
                committer.add(done(committer, range(frame, frame + 10)))
                control.check()
        except LeaseLost as error:
            raised.append(error)

    run = threading.Thread(target=work)
    with database.begin() as connection:
        connection.execute(text("SELECT 1 FROM scenarios FOR UPDATE"))
        run.start()
        time.sleep(0.3)
        assert run.is_alive()
        control.interrupt(LeaseLost("the worker's lease has ended"))
        run.join(30)
        assert not run.is_alive()
    assert len(raised) == 1


# --- labels


def test_labels_keep_their_places() -> None:
    labels = LabelNames(["car"])
    boxes = [Detection((0, 0, 1, 1), name, 0.5) for name in ("dog", "car", "dog")]
    assert labels.row(3, 120, boxes).label_ids == [1, 0, 1]
    assert labels.names == ["car", "dog"]
    assert labels.row(4, 160, []).track_ids is None


def test_what_the_columns_can_not_hold_is_rejected() -> None:
    """psycopg would write it truncated, without an error."""
    labels = LabelNames([str(n) for n in range(2**15 - 1)])
    assert labels.row(0, 0, [Detection((0, 0, 1, 1), "last", 1.0)]).label_ids == [2**15 - 1]
    with pytest.raises(RejectedTask, match="labels at most"):
        labels.row(0, 0, [Detection((0, 0, 1, 1), "one more", 1.0)])
    for track in (2**31 - 1, -(2**31) + 1):
        assert labels.row(0, 0, [Detection((0, 0, 1, 1), "last", 1.0, track)]).track_ids == [track]
    with pytest.raises(RejectedTask, match="track id"):
        labels.row(0, 0, [Detection((0, 0, 1, 1), "last", 1.0, 2**31)])


def test_a_thread_that_can_not_go_on_keeps_no_run_waiting(
    committer: Committer, control: RunControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: Committer) -> list[FinishedFrames]:
        raise MemoryError

    monkeypatch.setattr(Committer, "_cut", no_memory)
    committer.add(done(committer, range(3)))
    with pytest.raises(CommitFailed, match="MemoryError"):
        committer.flush()
