"""The commit: predictions, checkpoint and state in one transaction, under a fence; and reading."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import text

from tests.support.played_worker import LABELS, PlayedWorker
from vidan.db.session import Database
from vidan.domain.detection import Detection, Gap
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable, LeaseLost
from vidan.protocol import commits, creation, expiry, heartbeats, lifecycle
from vidan.protocol.commits import Batch, Row
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.services import predictions, scenarios, steering


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    """A worker that has an active scenario."""
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    played = PlayedWorker(database)
    played.claim()
    return played


def fence_of(worker: PlayedWorker) -> Fence:
    assert worker.fence is not None
    return worker.fence


def rows(frames: Sequence[int]) -> list[Row]:
    return [Row(frame, frame * 40, [frame % 2], [0.5], [1.0, 2.0, 3.0, 4.0]) for frame in frames]


def batch(start: int, end: int) -> Batch:
    return Batch(start, end, end * 100, f'{{"n": {end}}}', LABELS, rows(range(start, end)))


def commit(worker: PlayedWorker, one: Batch, fence: Fence | None = None) -> Status:
    with worker.database.begin() as connection:
        return commits.commit(connection, fence or fence_of(worker), one)


def stored(worker: PlayedWorker) -> list[int]:
    with worker.database.begin() as connection:
        found = predictions.read_after(connection, fence_of(worker).scenario_id, -1)
    return [one.frame for one in found]


def scenario(worker: PlayedWorker) -> scenarios.Scenario:
    with worker.database.begin() as connection:
        return scenarios.get(connection, fence_of(worker).scenario_id)


# --- the fence


def test_a_commit_moves_everything_at_once(worker: PlayedWorker) -> None:
    assert commit(worker, replace(batch(0, 3), frames_total=9)) is Status.ACTIVE
    assert commit(worker, replace(batch(3, 5), frames_total=9)) is Status.ACTIVE
    found = scenario(worker)
    assert (found.checkpoint, found.state, found.frames_done) == (5, {"n": 5}, 5)
    assert found.frames_total == 9
    assert stored(worker) == [0, 1, 2, 3, 4]
    with worker.database.begin() as connection:
        pts = connection.execute(text("SELECT checkpoint_pts FROM scenarios")).scalar()
    assert pts == 500


def test_a_commit_whose_answer_was_lost_stores_nothing_twice(worker: PlayedWorker) -> None:
    one = replace(batch(0, 3), gaps=[Gap(3, 4, "damage")], to_checkpoint=5)
    assert commit(worker, one) is Status.ACTIVE
    assert commit(worker, one) is Status.ACTIVE
    assert stored(worker) == [0, 1, 2]
    assert scenario(worker).frames_done == 3


def test_the_lost_answer_of_a_commit_that_a_stop_followed(worker: PlayedWorker) -> None:
    commit(worker, batch(0, 3))
    with worker.database.begin() as connection:
        steering.stop(connection, fence_of(worker).scenario_id)
    assert commit(worker, batch(0, 3)) is Status.INIT_SHUTDOWN


def test_a_stop_is_answered_by_the_commit(worker: PlayedWorker) -> None:
    with worker.database.begin() as connection:
        steering.stop(connection, fence_of(worker).scenario_id)
    assert commit(worker, batch(0, 3)) is Status.INIT_SHUTDOWN
    with worker.database.begin() as connection:
        lifecycle.shut_down(connection, fence_of(worker), actor="w")
    assert commit(worker, batch(3, 4)) is Status.IN_SHUTDOWN_PROCESSING
    assert stored(worker) == [0, 1, 2, 3]


def test_a_checkpoint_that_does_not_follow_is_refused(worker: PlayedWorker) -> None:
    commit(worker, batch(0, 3))
    for wrong in (batch(0, 4), batch(4, 6), batch(2, 5)):
        with pytest.raises(LeaseLost):
            commit(worker, wrong)
    assert stored(worker) == [0, 1, 2]
    assert scenario(worker).state == {"n": 3}


def test_another_epoch_or_worker_is_refused(worker: PlayedWorker) -> None:
    mine = fence_of(worker)
    for wrong in (
        mine._replace(epoch=mine.epoch + 1),
        mine._replace(epoch=mine.epoch - 1),
        mine._replace(worker_id=PlayedWorker(worker.database).id),
        mine._replace(scenario_id=mine.scenario_id + 1),
    ):
        with pytest.raises(LeaseLost):
            commit(worker, batch(0, 3), wrong)
    assert stored(worker) == []


def test_a_zombie_stores_nothing_once_another_has_claimed(worker: PlayedWorker) -> None:
    commit(worker, batch(0, 3))
    with worker.database.begin() as connection:
        expiry.release_worker(connection, worker.id, actor="s")
    with pytest.raises(LeaseLost):
        commit(worker, batch(3, 6))
    other = PlayedWorker(worker.database, "other")
    assert other.claim() == fence_of(worker).scenario_id
    assert other.checkpoint == 3
    for zombie in (batch(3, 6), batch(0, 3)):  # the second has landed, under another epoch
        with pytest.raises(LeaseLost):
            commit(worker, zombie)
    other.store([3])
    assert stored(worker) == [0, 1, 2, 3]


@pytest.mark.parametrize("status", [Status.INACTIVE, Status.COMPLETED, Status.FAILED])
def test_nothing_is_stored_after_the_end(worker: PlayedWorker, status: Status) -> None:
    if status is Status.INACTIVE:
        with worker.database.begin() as connection:
            steering.stop(connection, fence_of(worker).scenario_id)
    worker.end(status)
    with pytest.raises(LeaseLost):
        commit(worker, batch(0, 1))
    assert stored(worker) == []


def test_nothing_is_stored_before_the_start(database: Database) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    played = PlayedWorker(database)
    (claimed,) = played.take()
    with pytest.raises(LeaseLost):
        commit(played, batch(0, 1), claimed.fence)
    with pytest.raises(LeaseLost):  # nor is one that moves nothing taken for stored
        commit(played, batch(0, 0), claimed.fence)


def test_a_commit_that_fails_half_way_leaves_nothing(worker: PlayedWorker) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        commit(worker, replace(batch(0, 2), rows=rows([0, 1, 1])))
    assert stored(worker) == []
    assert scenario(worker).checkpoint == 0
    commit(worker, batch(0, 2))


def test_a_session_ended_in_the_middle_of_copy_is_an_absent_database(
    worker: PlayedWorker, database_url: str
) -> None:
    """It is no error of the run: COPY raises errors of psycopg, not of SQLAlchemy."""

    class Ending(list[Row]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield from rows(range(5))
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'COPY predictions%' AND pid <> pg_backend_pid()"
                )
            yield from rows(range(5, 50_000))

    with pytest.raises(DatabaseUnavailable):
        commit(worker, replace(batch(0, 1), rows=Ending(rows([0]))))
    assert stored(worker) == []
    commit(worker, batch(0, 3))


def test_a_time_out_in_the_middle_of_copy_is_an_absent_database(
    worker: PlayedWorker, database_url: str
) -> None:
    class Waiting(list[Row]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            threading.Event().wait(0.4)
            yield from rows(range(50_000))

    with pytest.raises(DatabaseUnavailable), worker.database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 200"))
        commits.commit(connection, fence_of(worker), replace(batch(0, 1), rows=Waiting(rows([0]))))
    commit(worker, batch(0, 3))


def test_a_partition_that_lacks_is_no_absent_database(worker: PlayedWorker) -> None:
    with worker.database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET week = '1999-01-04'"))
    with pytest.raises(psycopg.errors.CheckViolation):
        commit(worker, batch(0, 1))


# --- what is stored


def test_gaps_are_stored_and_counted(worker: PlayedWorker) -> None:
    commit(worker, replace(batch(0, 2), gaps=[Gap(2, 5, "damage"), Gap(8, 8, "lost")]))
    found = scenario(worker)
    with worker.database.begin() as connection:
        assert scenarios.gaps(connection, found.id) == [Gap(2, 5, "damage"), Gap(8, 8, "lost")]
        assert predictions.summary(connection, found.id).lost_frames == 5


def test_a_gap_that_is_met_again_only_grows(worker: PlayedWorker) -> None:
    """A commit of gaps alone does not move the checkpoint, so it may be sent twice."""
    for last in (5, 5, 7, 6):
        commit(worker, Batch(0, 0, None, "{}", LABELS, [], [Gap(2, last, "damage")]))
    with worker.database.begin() as connection:
        assert scenarios.gaps(connection, fence_of(worker).scenario_id) == [Gap(2, 7, "damage")]


def test_label_names_grow_and_old_frames_keep_theirs(worker: PlayedWorker) -> None:
    commit(worker, replace(batch(0, 2), label_names=["person", "car"]))
    more = [Row(2, 80, [2, 0], [0.9, 0.8], [0.0] * 8)]
    commit(worker, Batch(2, 3, None, "{}", ["person", "car", "dog"], more))
    with worker.database.begin() as connection:
        found = predictions.read_after(connection, fence_of(worker).scenario_id, -1)
    assert [[d.label for d in one.detections] for one in found] == [
        ["person"],
        ["car"],
        ["dog", "person"],
    ]


def test_a_reader_sees_no_frame_without_the_names_of_its_labels(worker: PlayedWorker) -> None:
    """Labels are added while pages are read: a page and its names are of one moment."""
    scenario_id = fence_of(worker).scenario_id
    ended = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                with worker.database.begin() as connection:
                    predictions.read_after(connection, scenario_id, -1)
                    predictions.summary(connection, scenario_id)
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    names: list[str] = []
    for frame in range(120):
        names.append(f"label {frame}")
        row = Row(frame, 0, [frame], [1.0], [0.0] * 4)
        commit(worker, Batch(frame, frame + 1, None, "{}", list(names), [row]))
    ended.set()
    reader.join()
    assert failures == []


def test_progress_clears_both_budgets(worker: PlayedWorker) -> None:
    with worker.database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET attempts = 2, crashes = 4"))
    commit(worker, batch(0, 1))
    found = scenario(worker)
    assert (found.attempts, found.crashes) == (2, 4)
    commit(worker, replace(batch(1, 2), clear_budgets=True))
    found = scenario(worker)
    assert (found.attempts, found.crashes) == (0, 0)


def test_all_updates_of_commits_and_heartbeats_are_hot(worker: PlayedWorker) -> None:
    """No index names what they write: otherwise every commit would write every index."""
    for frame in range(200):
        commit(worker, replace(batch(frame, frame + 1), clear_budgets=frame > 0))
        with worker.database.begin() as connection:
            assert heartbeats.beat(
                connection,
                worker.id,
                state="busy",
                fps=frame,
                count=False,
                slots=1 + frame % 64,
            )

    def counts() -> dict[str, tuple[int, int]]:
        with worker.database.begin() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
        with worker.database.begin() as connection:
            found = connection.execute(
                text("SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables")
            )
            return {row.relname: (row.n_tup_upd, row.n_tup_hot_upd) for row in found}

    # statistics arrive when the session is idle; every session of the pool has to be
    before = counts()
    assert before["workers"][0] >= 200
    assert before["workers"][0] == before["workers"][1]
    updates, hot = before["scenarios"]
    assert updates >= 200
    assert updates - hot <= 2  # the claim and the start, which set what is indexed


def test_the_view_of_detections_has_a_row_each(worker: PlayedWorker) -> None:
    row = Row(4, 160, [1, 0], [0.75, 0.5], [1, 2, 3, 4, 5, 6, 7, 8], [7, None])
    commit(worker, Batch(0, 6, None, "{}", LABELS, [Row(3, 120, [], [], []), row]))
    with worker.database.begin() as connection:
        found = connection.execute(text("SELECT * FROM detections ORDER BY frame, detection"))
        assert [tuple(one) for one in found] == [
            (fence_of(worker).scenario_id, 4, 160, 0, "car", 0.75, 1, 2, 3, 4, 7),
            (fence_of(worker).scenario_id, 4, 160, 1, "person", 0.5, 5, 6, 7, 8, None),
        ]


# --- read


def test_pages_follow_each_other(worker: PlayedWorker) -> None:
    worker.store(range(25), found=2)
    scenario_id = fence_of(worker).scenario_id
    with worker.database.begin() as connection:
        frames: list[int] = []
        while page := predictions.read_after(
            connection, scenario_id, frames[-1] if frames else -1, limit=10
        ):
            assert len(page) <= 10
            frames += [one.frame for one in page]
        assert frames == list(range(25))

        def found(frame: int, **how: int) -> list[int]:
            return [o.frame for o in predictions.read_after(connection, scenario_id, frame, **how)]

        assert found(20, upto=22) == [21, 22]
        assert found(22, upto=22) == found(99) == found(2**70) == found(-1, limit=0) == []
        assert found(-(2**70), limit=2**70, upto=2**70) == list(range(25))
        assert found(-1, limit=-5) == []


def test_a_frame_is_read_as_it_was_stored(worker: PlayedWorker) -> None:
    row = Row(0, 5, [1], [0.25], [1.5, 2.0, 3.0, 4.25], [9], '{"speed": [1, null]}')
    commit(worker, Batch(0, 2, None, "{}", LABELS, [row, Row(1, 45, [], [], [])]))
    scenario_id = fence_of(worker).scenario_id
    with worker.database.begin() as connection:
        first, second = predictions.read_after(connection, scenario_id, -1)
    assert first.detections == (Detection((1.5, 2.0, 3.0, 4.25), "car", 0.25, 9),)
    assert first.as_json() == {
        "scenario_id": scenario_id,
        "frame": 0,
        "time_ms": 5,
        "detections": [
            {"label": "car", "score": 0.25, "box": [1.5, 2.0, 3.0, 4.25], "track_id": 9}
        ],
        "extra": {"speed": [1, None]},
    }
    assert second.as_json() == {
        "scenario_id": scenario_id,
        "frame": 1,
        "time_ms": 45,
        "detections": [],
    }


def test_the_summary_counts(worker: PlayedWorker) -> None:
    worker.store(range(4), found=3)  # person, car, person in each
    commit(worker, Batch(4, 5, None, "{}", LABELS, [Row(4, 160, [], [], [])]))
    with worker.database.begin() as connection:
        found = predictions.summary(connection, fence_of(worker).scenario_id)
    assert (found.frames, found.detections, found.lost_frames) == (5, 12, 0)
    assert list(found.by_label.items()) == [("person", 8), ("car", 4)]
    assert found.frames_with == {"person": 4, "car": 4}


def test_what_is_no_number_is_null_in_json() -> None:
    box = (float("nan"), 1.0, float("inf"), 2.0)
    frame = predictions.StoredFrame(1, 0, 0, (Detection(box, "x", float("inf")),))
    (found,) = frame.as_json()["detections"]
    assert (found["score"], found["box"]) == (None, [None, 1.0, None, 2.0])
