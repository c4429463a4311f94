"""The number of slots of a running worker: asked for, learned, kept over crashes."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import trial
from tests.support.cluster import Cluster
from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import DesiredState, Status
from vidan.domain.worker import MAX_SLOTS, WorkerOptions
from vidan.errors import NotAllowedError, NotFoundError, UsageError
from vidan.processes.slotboard import SlotBoard
from vidan.protocol import claims, creation, heartbeats
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios, steering, workers
from vidan.supervisor.post import Post
from vidan.supervisor.supervisor import Supervisor
from vidan.worker.claiming import AHEAD_PER_SLOT
from vidan.worker.worker import Worker


def scale(where: Cluster | Database, name: str, slots: int) -> list[workers.Scaled]:
    database = where.database if isinstance(where, Cluster) else where
    with database.begin() as connection:
        return workers.scale(connection, name, slots)


# --- asking


def test_a_name_means_all_that_are_there_and_do_not_leave(database: Database) -> None:
    first, second, leaving, gone = (PlayedWorker(database, name) for name in "wwww")
    with database.begin() as connection:
        workers.retire(connection, [str(leaving.id)], DesiredState.DRAINED)
    gone.let_lease_end()
    asked = scale(database, "w", 3)
    assert {one.worker.id for one in asked} == {first.id, second.id}
    assert all(one.changed and one.worker.desired_slots == 3 for one in asked)
    (again,) = scale(database, str(first.id), 3)
    assert not again.changed
    (other,) = scale(database, str(first.id), MAX_SLOTS)
    assert other.changed
    with database.begin() as connection:
        assert workers.get(connection, str(leaving.id)).desired_slots is None


def test_what_is_refused(database: Database) -> None:
    worker = PlayedWorker(database, "w")
    for wrong in (-1, 0, MAX_SLOTS + 1):
        with pytest.raises(UsageError):
            scale(database, "w", wrong)
    with pytest.raises(NotFoundError):
        scale(database, "nobody", 2)
    with database.begin() as connection:
        workers.retire(connection, ["w"], DesiredState.STOPPED)
    with pytest.raises(NotAllowedError, match="leaving"):
        scale(database, "w", 2)
    worker.let_lease_end()
    with pytest.raises(NotAllowedError, match="gone"):
        scale(database, "w", 2)


def test_the_heartbeat_tells_how_many_are_asked_for_and_are_there(database: Database) -> None:
    worker = PlayedWorker(database, "w")

    def beat(slots: int | None) -> heartbeats.Beat:
        with database.begin() as connection:
            found = heartbeats.beat(
                connection, worker.id, state="idle", fps=0, count=False, slots=slots
            )
        assert found is not None
        return found

    assert beat(None).slots is None
    scale(database, "w", 5)
    assert beat(None).slots == 5
    with database.begin() as connection:
        assert workers.get(connection, "w").slots == 1
    assert beat(5).slots == 5
    with database.begin() as connection:
        assert workers.get(connection, "w").slots == 5


def test_a_registration_that_follows_another_keeps_the_number(database: Database) -> None:
    former = PlayedWorker(database, "w")
    scale(database, "w", 7)

    def register(before: uuid.UUID | None) -> tuple[int | None, int]:
        new = heartbeats.Registration(
            uuid.uuid4(), "w", "test", 1, "cpu", 2, ("default",), ("detect",), replaces=before
        )
        with database.begin() as connection:
            asked = heartbeats.register(connection, new).slots
            return asked, workers.get(connection, str(new.worker_id)).slots

    assert register(former.id) == (7, 7)
    assert register(None) == (None, 2)
    assert register(uuid.uuid4()) == (None, 2)


# --- a worker, step by step


class Stepped:
    """A worker in the test's process, and what it runs."""

    def __init__(self, settings: Settings, database: Database, marks: Path, slots: int) -> None:
        self.board = SlotBoard.create(MAX_SLOTS)
        self.worker = Worker(settings, WorkerOptions("w", slots=slots), trial.app.tasks, self.board)
        self.database = database
        self.marks = marks
        self.worker.run_once()

    def create(self, count: int, **new: Any) -> list[int]:
        rows = []
        for _ in range(count):
            mark = str(self.marks / uuid.uuid4().hex)
            rows.append(NewScenario(task="attend", params={"mark": mark}, **new))
        with self.database.begin() as connection:
            return [one.id for one in creation.create_many(connection, rows)]

    def finish(self, scenario_id: int) -> None:
        Path(self.get(scenario_id).params["mark"]).touch()

    def get(self, scenario_id: int) -> scenarios.Scenario:
        with self.database.begin() as connection:
            return scenarios.get(connection, scenario_id)

    def status(self, status: Status, ids: list[int]) -> set[int]:
        return {one for one in ids if self.get(one).status is status}

    def running(self) -> set[int]:
        """What its slots are at; claimed ahead, a scenario of a task without a source is active."""
        return set(self.board.executing())

    def steps(self, condition: Any, seconds: float = 30) -> bool:
        def step() -> bool:
            self.worker.run_once()
            return bool(condition())

        return eventually(step, seconds)

    def asked(self, slots: int) -> None:
        """As the heartbeat brings it."""
        scale(self.database, "w", slots)
        assert self.worker.lease is not None
        self.worker.lease.desired_slots = slots


@pytest.fixture
def stepped(database_url: str, database: Database, tmp_path: Path) -> Iterator[Any]:
    made: list[Stepped] = []

    def make(slots: int) -> Stepped:
        settings = Settings(home=tmp_path, database_url=database_url)
        made.append(Stepped(settings, database, tmp_path, slots))
        return made[-1]

    yield make
    for one in made:
        one.worker.leave()
        one.worker._slots.close()
        one.board.close()


def test_a_step_grows_claims_at_once_and_bounds_what_is_ahead(stepped: Any) -> None:
    one: Stepped = stepped(1)
    one.create(4)
    assert one.steps(lambda: len(one.running()) == 1)
    one.asked(3)
    one.worker._polling._next_sweep = float("inf")
    assert one.steps(lambda: len(one.running()) == 3)
    assert one.board.in_use == 3
    assert one.worker._claims._ended.maxlen == 3 * AHEAD_PER_SLOT
    assert one.worker._measure().slots == 3
    one.asked(1)
    one.worker.run_once()
    assert one.worker._claims._ended.maxlen == AHEAD_PER_SLOT
    assert one.worker._measure().slots == 3  # as many still run
    first, second, third = one.running()
    one.finish(first)
    one.finish(second)
    assert one.steps(lambda: one.worker._measure().slots == 1)
    one.worker._polling._next_sweep = 0.0
    assert not one.steps(lambda: one.running() != {third}, 1.5)
    one.finish(third)
    assert one.steps(lambda: len(one.running()) == 1)


def test_what_waits_in_a_worker_is_put_back_when_its_slots_become_fewer(
    stepped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidan.worker.worker.AHEAD_SECONDS", 600.0)
    one: Stepped = stepped(2)
    ids = one.create(6)
    one.worker._claims._ended.extend([float("inf")] * 4)  # four may be claimed ahead
    one.worker.run_once()
    assert one.steps(lambda: len(one.running()) == 2)
    one.worker._claims._ended.clear()
    one.asked(1)
    one.worker.run_once()
    assert len(one.status(Status.INIT_STARTUP, ids)) == 4
    with one.database.begin() as connection:
        steps = [step for each in ids for step in scenarios.history(connection, each)]
    assert "not begun, the worker has fewer slots" in {step.reason for step in steps}


def test_a_suspect_stays_alone_when_its_worker_is_to_grow(stepped: Any) -> None:
    """Otherwise its neighbours would be charged for its next crash as well."""
    one: Stepped = stepped(1)
    (suspect,) = one.create(1, priority=1)
    with one.database.begin() as connection:
        connection.exec_driver_sql("UPDATE scenarios SET crashes = 2")
    assert one.steps(lambda: suspect in one.running())
    others = one.create(3)
    one.asked(3)
    assert not one.steps(lambda: one.running() & set(others), 1.5)
    one.finish(suspect)
    assert one.steps(lambda: len(one.running() & set(others)) == 3)


def test_a_suspect_that_got_on_holds_nothing_up(stepped: Any) -> None:
    one: Stepped = stepped(1)
    (suspect,) = one.create(1, priority=1)
    with one.database.begin() as connection:
        connection.exec_driver_sql("UPDATE scenarios SET crashes = 2")
    assert one.steps(lambda: suspect in one.running())
    (run,) = one.worker._slots.runs()
    run.note_progress(quarantine=False)
    others = one.create(2)
    one.asked(3)
    assert one.steps(lambda: len(one.running() & set(others)) == 2)


def test_with_more_slots_a_worker_leaves_suspects_to_others(stepped: Any) -> None:
    one: Stepped = stepped(1)
    one.asked(2)
    (suspect,) = one.create(1)
    with one.database.begin() as connection:
        connection.exec_driver_sql("UPDATE scenarios SET crashes = 2")
    assert not one.steps(lambda: suspect in one.running(), 1.5)
    one.asked(1)
    assert one.steps(lambda: suspect in one.running())


# --- the supervisor


def test_a_post_knows_how_many_slots_its_worker_has() -> None:
    post = Post(WorkerOptions("w", slots=2))
    assert post.count() == 2
    post.board = SlotBoard.create(MAX_SLOTS)
    post.board.in_use = 1
    assert post.count() == 2  # it has not registered, and may be given others then
    post.board.worker_id = uuid.uuid4()
    assert post.count() == 1
    post.board.close()
    post.board, post.slots = None, 1
    assert post.count() == 1  # as many as the process that died


@pytest.fixture
def supervisor(database_url: str, tmp_path: Path) -> Iterator[Supervisor]:
    settings = Settings(home=tmp_path, database_url=database_url)
    made = Supervisor(settings, [WorkerOptions("w"), WorkerOptions("v")])
    yield made
    made._database.close()


def test_a_process_for_suspects_is_kept_only_while_no_worker_has_one_slot(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Post, "start", lambda *_: None)
    monkeypatch.setattr(claims, "suspects_due", lambda *_, **__: True)

    def looked() -> Post | None:
        supervisor._quarantine.check_now()
        supervisor._quarantine.keep()
        return supervisor._quarantine.post

    one, other = supervisor._posts
    assert looked() is None
    one.slots = 4
    assert looked() is None  # the other worker takes them
    other.given_up = True
    assert looked() is not None  # the other worker can't
    other.given_up, supervisor._quarantine.post = False, None
    other.slots = 2
    found = looked()
    assert found is not None
    assert (found.options.slots, found.options.quarantine) == (1, True)
    one.slots = 1
    assert looked() is None


# --- processes


def holding(cluster: Cluster, status: Status = Status.ACTIVE) -> int:
    return len(cluster.query("SELECT 1 FROM scenarios WHERE status = :s", s=status))


def shown(cluster: Cluster) -> tuple[int, int | None]:
    with cluster.database.begin() as connection:
        (found,) = workers.find(connection)
        return found.slots, found.desired_slots


def test_more_at_once_then_fewer_and_a_crash_changes_nothing(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.supervisor()
    long = [cluster.create(task="sleep", params={"seconds": 600}) for _ in range(2)]
    assert eventually(lambda: holding(cluster) == 1, 30), cluster.log()

    scale(cluster, "w", 2)
    assert eventually(lambda: holding(cluster) == 2, 30), cluster.log()
    assert eventually(lambda: shown(cluster) == (2, 2), 30)

    pid = cluster.worker_pid()
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: cluster.worker_pid() != pid, 60), cluster.log()
    assert shown(cluster) == (2, 2)
    again = "SELECT 1 FROM scenarios WHERE status = 'active' AND epoch = 2"
    assert eventually(lambda: len(cluster.query(again)) == 2, 60), cluster.log()

    # over a video: of these none is claimed ahead
    short = [cluster.create(task="span", params={"seconds": 0.5}) for _ in range(2)]
    scale(cluster, "w", 1)
    assert eventually(lambda: "1 slots from now on" in cluster.log(), 30), cluster.log()
    assert holding(cluster) == 2  # what runs is not touched
    stop(cluster, long[0])
    assert eventually(lambda: shown(cluster) == (1, 1), 30)
    assert holding(cluster) == 1
    stop(cluster, long[1])
    # of the two none ran while the other did; that one has ended is stored a moment later
    ended = [cluster.wait(one) for one in short]
    assert [one.status for one in ended] == [Status.COMPLETED] * 2
    spans: list[Any] = sorted(one.result for one in ended)
    assert spans[0][1] <= spans[1][0]


def stop(cluster: Cluster, scenario_id: int) -> None:
    with cluster.database.begin() as connection:
        steering.stop(connection, scenario_id)
    assert cluster.wait(scenario_id).status is Status.INACTIVE


def test_a_worker_that_has_grown_leaves_suspects_to_a_process_of_their_own(
    embedded_cluster: Cluster,
) -> None:
    cluster = embedded_cluster
    cluster.supervisor()
    long = cluster.create(task="sleep", params={"seconds": 600})
    scale(cluster, "w", 2)
    assert eventually(lambda: "2 slots from now on" in cluster.log(), 30), cluster.log()
    suspect = cluster.create(task="add", params={"a": 1}, queue="held")
    cluster.query("UPDATE scenarios SET crashes = 2, queue = 'default' WHERE id = :id", id=suspect)

    assert cluster.wait(suspect).result == 2
    actors = "SELECT actor FROM transitions WHERE scenario_id = :id AND to_status = 'active'"
    assert [row["actor"] for row in cluster.query(actors, id=suspect)] == ["w-quarantine"]
    assert cluster.get(long).status is Status.ACTIVE

    scale(cluster, "w", 1)  # it takes them itself again, and the process of their own leaves
    gone = "SELECT 1 FROM workers WHERE name = 'w-quarantine' AND state <> 'gone'"
    assert eventually(lambda: cluster.query(gone) == [], 40), cluster.log()
