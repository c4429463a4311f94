"""Workers that leave: drained, stopped, or to make room for a fresh process."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import SAMPLE_FRAMES, Cluster
from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.status import DesiredState, Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import RETIRED_EXIT_CODE, HandOver, NotAllowedError, NotFoundError
from vidan.processes.lifeline import Child
from vidan.protocol import creation, heartbeats
from vidan.protocol.creation import NewScenario
from vidan.services import workers
from vidan.worker.leaving import Leaving
from vidan.worker.slots import ClaimedRun, FrameCount

DRAINED, STOPPED = DesiredState.DRAINED, DesiredState.STOPPED


def retire(where: Cluster | Database, *names: str, to: DesiredState) -> list[workers.Retired]:
    database = where.database if isinstance(where, Cluster) else where
    with database.begin() as connection:
        return workers.retire(connection, names or None, to)


def registrations(cluster: Cluster, name: str) -> int:
    return len(cluster.query("SELECT 1 FROM workers WHERE name = :n", n=name))


def ended_with(child: Child, seconds: float) -> int | None:
    assert eventually(lambda: child.poll() is not None, seconds)
    return child.poll()


# --- asking


def test_a_name_means_all_that_are_there(database: Database) -> None:
    first, second, gone, other = (PlayedWorker(database, name) for name in "wwwx")
    gone.let_lease_end()
    asked = retire(database, "w", to=DRAINED)
    assert {one.worker.id for one in asked} == {first.id, second.id}
    assert all(one.changed and one.worker.state == "draining" for one in asked)
    with database.begin() as connection:
        assert workers.desired_state(connection, gone.id) is DesiredState.RUNNING
        assert workers.desired_state(connection, other.id) is DesiredState.RUNNING
        assert workers.desired_state(connection, uuid.uuid4()) is DesiredState.RUNNING
    assert [one.worker.id for one in retire(database, str(other.id), to=STOPPED)] == [other.id]


def test_a_drained_one_may_be_stopped_and_not_the_other_way_round(database: Database) -> None:
    PlayedWorker(database, "w")
    for to, changed, now in (
        (DRAINED, True, DRAINED),
        (DRAINED, False, DRAINED),
        (STOPPED, True, STOPPED),
        (DRAINED, False, STOPPED),
    ):
        (asked,) = retire(database, "w", to=to)
        assert (asked.changed, asked.worker.desired_state) == (changed, now)
    assert [one.changed for one in retire(database, to=STOPPED)] == [False]


def test_who_is_gone_or_unknown_is_refused(database: Database) -> None:
    worker = PlayedWorker(database, "w")
    worker.let_lease_end()
    with pytest.raises(NotAllowedError, match="gone"):
        retire(database, "w", to=DRAINED)
    with pytest.raises(NotFoundError):
        retire(database, "nobody", to=DRAINED)
    assert retire(database, to=DRAINED) == []


def test_the_heartbeat_tells_what_is_asked(database: Database) -> None:
    worker = PlayedWorker(database, "w")
    with database.begin() as connection:
        beat = heartbeats.beat(connection, worker.id, state="idle", fps=0, count=False)
        assert beat is not None
        assert beat.desired is DesiredState.RUNNING
    retire(database, "w", to=DRAINED)
    with database.begin() as connection:
        beat = heartbeats.beat(connection, worker.id, state="busy", fps=0, count=False)
        assert beat is not None
        assert beat.desired is DRAINED
        (shown,) = workers.find(connection)
    assert (shown.state, shown.as_json()["desired_state"]) == ("draining", "drained")


def test_a_registration_that_follows_another_forgets_no_drain(database: Database) -> None:
    former = PlayedWorker(database, "w")
    retire(database, "w", to=DRAINED)
    former.let_lease_end()

    def register(before: uuid.UUID | None) -> DesiredState:
        new = heartbeats.Registration(
            uuid.uuid4(), "w", "test", 1, "cpu", 1, ("default",), ("detect",), replaces=before
        )
        with database.begin() as connection:
            return heartbeats.register(connection, new).state

    assert register(former.id) is DRAINED
    assert register(None) is DesiredState.RUNNING
    assert register(uuid.uuid4()) is DesiredState.RUNNING


def test_who_is_still_there_is_told_by_the_process(database: Database) -> None:
    one = PlayedWorker(database, "w")
    one.let_lease_end()
    again = PlayedWorker(database, "w")  # the same process under another id
    with database.begin() as connection:
        assert [row.id for row in workers.living_in_process_of(connection, [one.id])] == [again.id]
        heartbeats.sign_off(connection, again.id)
        assert workers.living_in_process_of(connection, [one.id]) == []


def test_a_drained_worker_claims_nothing(database: Database) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    worker = PlayedWorker(database, "w")
    retire(database, "w", to=DRAINED)
    assert worker.take() == []


# --- real processes


def test_a_drained_worker_finishes_what_runs_and_is_not_started_again(cluster: Cluster) -> None:
    cluster.orchestrator()
    supervisor = cluster.supervisor("leaving")
    running = cluster.create(task="count", params={"model": "trial:crawling"})
    cluster.wait_for_frames(running, 10)
    waiting = cluster.create(task="count")

    retire(cluster, "leaving", to=DRAINED)

    assert ended_with(supervisor, 60) == 0, cluster.log()
    scenario = cluster.get(running)
    assert (scenario.status, scenario.result) == (Status.COMPLETED, {"frames": SAMPLE_FRAMES})
    assert cluster.statuses(running).count(Status.INIT_STARTUP_PROCESSING) == 1
    assert cluster.get(waiting).status is Status.INIT_STARTUP
    assert registrations(cluster, "leaving") == 1
    # started by hand, it works again
    cluster.supervisor("leaving")
    assert cluster.wait(waiting).result == {"frames": SAMPLE_FRAMES}


def test_a_stopped_worker_puts_back_what_runs(embedded_cluster: Cluster) -> None:
    supervisor = embedded_cluster.supervisor("leaving")
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:crawling"})
    embedded_cluster.wait_for_frames(scenario_id, 10)

    retire(embedded_cluster, "leaving", to=DRAINED)
    time.sleep(1)
    retire(embedded_cluster, "leaving", to=STOPPED)

    assert ended_with(supervisor, 20) == 0
    put_back = embedded_cluster.get(scenario_id)
    assert put_back.status is Status.INIT_STARTUP
    assert (put_back.attempts, put_back.crashes) == (0, 0)
    assert 0 < put_back.frames_done < SAMPLE_FRAMES
    embedded_cluster.supervisor("next")
    assert embedded_cluster.wait(scenario_id).result == {"frames": SAMPLE_FRAMES}


def test_a_drained_worker_that_dies_is_not_started_again(embedded_cluster: Cluster) -> None:
    supervisor = embedded_cluster.supervisor("leaving")
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:crawling"})
    embedded_cluster.wait_for_frames(scenario_id, 10)
    retire(embedded_cluster, "leaving", to=DRAINED)

    os.kill(embedded_cluster.worker_pid("leaving"), signal.SIGKILL)

    assert ended_with(supervisor, 20) == 0
    assert registrations(embedded_cluster, "leaving") == 1
    released = embedded_cluster.get(scenario_id)
    assert (released.status, released.crashes) == (Status.INIT_STARTUP, 1)


def test_a_lease_that_ended_forgets_no_drain(embedded_cluster: Cluster) -> None:
    supervisor = embedded_cluster.supervisor("leaving")
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:crawling"})
    embedded_cluster.wait_for_frames(scenario_id, 10)

    embedded_cluster.query(
        "UPDATE workers SET lease_until = now() - interval '1 s', desired_state = 'drained'"
    )

    assert ended_with(supervisor, 40) == 0, embedded_cluster.log()
    assert registrations(embedded_cluster, "leaving") == 2
    assert embedded_cluster.statuses(scenario_id).count(Status.INIT_STARTUP_PROCESSING) == 1


def test_a_process_that_replaces_a_drained_one_leaves_at_once(embedded_cluster: Cluster) -> None:
    """As when the database was unavailable, so that the supervisor could not ask it."""
    former = PlayedWorker(embedded_cluster.database, "w")
    retire(embedded_cluster, "w", to=DRAINED)
    former.let_lease_end()
    waiting = embedded_cluster.create()

    options = WorkerOptions("w", app="trial:app").to_json()
    child = embedded_cluster.start(
        "vidan.worker", ["--options", options, "--replaces", str(former.id)]
    )

    assert ended_with(child, 30) == RETIRED_EXIT_CODE, embedded_cluster.log()
    assert registrations(embedded_cluster, "w") == 2
    assert embedded_cluster.statuses(waiting) == [Status.INIT_STARTUP]


def test_a_quarantine_child_goes_with_the_last_worker(
    embedded_cluster: Cluster, tmp_path: Path
) -> None:
    supervisor = embedded_cluster.supervisor("many", slots=2)
    suspect = embedded_cluster.create(task="sleep", params={"seconds": 600})
    embedded_cluster.query("UPDATE scenarios SET crashes = 2 WHERE id = :id", id=suspect)
    held = "SELECT 1 FROM workers w JOIN scenarios s ON s.worker_id = w.id WHERE w.quarantine"
    assert eventually(lambda: embedded_cluster.query(held) != [], 40), embedded_cluster.log()

    retire(embedded_cluster, "many", to=DRAINED)

    assert ended_with(supervisor, 40) == 0
    put_back = embedded_cluster.get(suspect)
    assert (put_back.status, put_back.crashes) == (Status.INIT_STARTUP, 2)


# --- a fresh process after a number of frames


def test_a_process_that_has_done_its_frames_makes_room(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor("fresh", max_frames_per_child=60)
    scenario_id = cluster.create(task="count", params={"model": "trial:slow"})

    scenario = cluster.wait(scenario_id, 120)

    assert scenario.result == {"frames": SAMPLE_FRAMES}, cluster.log()
    assert (scenario.attempts, scenario.crashes) == (0, 0)
    assert [one.frame for one in cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))
    assert registrations(cluster, "fresh") >= 3
    reasons = cluster.query(
        "SELECT DISTINCT reason FROM transitions WHERE scenario_id = :id"
        " AND from_status IS NOT NULL AND to_status = 'init_startup'",
        id=scenario_id,
    )
    assert reasons == [{"reason": "its process is recycled"}]


def test_less_than_a_batch_gets_on_all_the_same(embedded_cluster: Cluster) -> None:
    embedded_cluster.supervisor("tiny", max_frames_per_child=1)
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:crawling"})

    # not to its end, which takes very many processes
    embedded_cluster.wait_for_frames(scenario_id, 24, 90)

    assert registrations(embedded_cluster, "tiny") >= 3


def test_each_run_gets_on_before_its_process_goes(database: Database) -> None:
    """Frames are counted over all slots: a quick video must not send a slow one back for ever."""
    for number in range(3):
        with database.begin() as connection:
            creation.create(connection, NewScenario(source=f"/{number}.mp4"))
    quick, slow, _ = (_claimed_run(database) for _ in range(3))
    slots: Any = _Slots([quick, slow])
    frames = FrameCount()
    leaving = Leaving(8, frames)
    frames.add(quick, 4)
    assert not leaving.should_leave(DesiredState.RUNNING)
    frames.add(quick, 4)
    assert leaving.should_leave(DesiredState.RUNNING)
    assert not leaving.hand_over(DesiredState.RUNNING, slots)
    assert isinstance(quick.control.interruption, HandOver)
    assert slow.control.interruption is None
    frames.add(slow, 1)
    assert not leaving.hand_over(DesiredState.RUNNING, slots)
    assert isinstance(slow.control.interruption, HandOver)
    slots.all = []
    assert leaving.hand_over(DesiredState.RUNNING, slots)
    assert not leaving.retired


def test_what_has_no_frames_is_waited_for_so_long_and_no_longer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    slots: Any = _Slots([_claimed_run(database)])
    leaving = Leaving(0, FrameCount())
    assert leaving.should_leave(DesiredState.RUNNING)
    assert not leaving.hand_over(DesiredState.RUNNING, slots)
    monkeypatch.setattr("vidan.worker.leaving.RECYCLE_SECONDS", 0.0)
    assert leaving.hand_over(DesiredState.RUNNING, slots)


class _Slots:
    def __init__(self, runs: list[ClaimedRun]) -> None:
        self.all = runs

    def runs(self) -> list[ClaimedRun]:
        return self.all


def _claimed_run(database: Database) -> ClaimedRun:
    (claimed,) = PlayedWorker(database).take()
    return ClaimedRun(claimed)


def test_the_exit_code_is_its_own() -> None:
    from vidan.errors import HOPELESS_EXIT_CODES

    assert RETIRED_EXIT_CODE not in (0, 1, *HOPELESS_EXIT_CODES)
