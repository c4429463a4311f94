"""Weeks of predictions are dropped whole: beside runs and readers, killed, two at once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.detection import Gap
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable, NotAllowedError, Pruned
from vidan.protocol import creation, partitions
from vidan.protocol.creation import NewScenario
from vidan.services import predictions, pruning, scenarios, steering

OLD = date(2024, 1, 1)
NEWER = date(2024, 1, 8)
AGE = timedelta(days=30)


def created(database: Database, week: date, *, status: Status) -> int:
    """A scenario of a week; its id."""
    with database.begin() as connection:
        partitions.ensure_week(connection, week)
        new = NewScenario(source="/a.mp4", status=status)
        scenario_id = creation.create(connection, new).id
        connection.execute(
            text("UPDATE scenarios SET week = :week WHERE id = :id"),
            {"week": week, "id": scenario_id},
        )
    return scenario_id


def stored(database: Database, week: date, *, ends: Status | None = Status.COMPLETED) -> int:
    """A scenario of a week with ten frames and a gap; its id."""
    scenario_id = created(database, week, status=Status.INIT_STARTUP)
    worker = PlayedWorker(database)
    assert worker.claim() == scenario_id
    worker.store(range(10), gaps=[Gap(10, 11, "damaged")])
    if ends is Status.INACTIVE:
        with database.begin() as connection:
            steering.stop(connection, scenario_id)
    if ends is not None:
        worker.end(ends)
    return scenario_id


def prune(database: Database, week: date = OLD) -> pruning.Week | None:
    return database.retrying(pruning.prune, week)


def weeks(database: Database) -> list[date]:
    with database.begin() as connection:
        return partitions.existing(connection)


def read(database: Database, scenario_id: int) -> int:
    with database.begin() as connection:
        return len(predictions.read_after(connection, scenario_id, -1))


def is_whole(database: Database, scenario_id: int) -> bool:
    """Whether all of the week is stored; asserts that otherwise nothing is."""
    with database.begin() as connection:
        scenario = scenarios.get(connection, scenario_id)
        gaps = len(scenarios.gaps(connection, scenario_id))
    there = OLD in weeks(database)
    if there:
        assert (scenario.pruned, gaps, read(database, scenario_id)) == (False, 1, 10)
    else:
        assert (scenario.pruned, gaps) == (True, 0)
    return there


def found(database: Database, before: pruning.Before) -> list[pruning.Week]:
    with database.begin() as connection:
        return pruning.weeks_before(connection, before)


def test_a_week_goes_with_all_that_was_stored_and_its_scenarios_stay(database: Database) -> None:
    old, newer = stored(database, OLD), stored(database, NEWER)
    pruned = prune(database)
    assert pruned is not None
    assert (pruned.week, pruned.scenarios, pruned.unfinished) == (OLD, 1, ())
    assert pruned.size > 0
    assert not is_whole(database, old)
    with pytest.raises(Pruned, match="pruned"):
        read(database, old)
    with database.begin() as connection, pytest.raises(Pruned):
        predictions.summary(connection, old)
    assert read(database, newer) == 10
    with database.begin() as connection:
        kept = scenarios.get(connection, old)
        assert (kept.status, kept.frames_done, kept.pruned) == (Status.COMPLETED, 10, True)
        assert not scenarios.get(connection, newer).pruned


def test_only_weeks_that_had_ended_by_then_are_found(database: Database) -> None:
    for week in (OLD, NEWER):
        stored(database, week)
    with database.begin() as connection:
        this = partitions.this_week(connection)
        partitions.ensure_ahead(connection)
    assert [one.week for one in found(database, AGE)] == [OLD, NEWER]
    on_sunday = datetime(2024, 1, 14, 23, 59, tzinfo=UTC)
    assert [one.week for one in found(database, on_sunday)] == [OLD]
    monday = datetime(2024, 1, 15, tzinfo=UTC)
    assert [one.week for one in found(database, monday)] == [OLD, NEWER]
    # midnight in Berlin is still Sunday in UTC
    berlin = datetime.fromisoformat("2024-01-15T00:00+01:00")
    assert [one.week for one in found(database, berlin)] == [OLD]
    in_a_year = datetime.now(UTC) + timedelta(days=365)
    assert this not in [one.week for one in found(database, in_a_year)]


@pytest.mark.parametrize("held", [True, False])
def test_a_week_with_a_scenario_that_has_not_ended_is_left(database: Database, held: bool) -> None:
    ended = stored(database, OLD)
    running = stored(database, OLD, ends=None)
    if not held:
        with database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE scenarios SET status = 'init_startup', worker_id = NULL WHERE id = :id"
                ),
                {"id": running},
            )
    (week,) = found(database, AGE)
    left = prune(database)
    assert left is not None
    for one in (week, left):
        assert (one.scenarios, one.unfinished, one.unfinished_count) == (2, (running,), 1)
    assert is_whole(database, ended)


def test_a_pruned_one_starts_only_from_the_beginning_in_the_current_week(
    database: Database,
) -> None:
    stopped, failed = (
        stored(database, OLD, ends=Status.INACTIVE),
        stored(database, OLD, ends=Status.FAILED),
    )
    prune(database)
    with database.begin() as connection:
        refused_ways = (
            (stopped, steering.start),
            (failed, steering.start),
            (failed, steering.retry),
        )
        for one, ask in refused_ways:
            with pytest.raises(NotAllowedError, match="pruned") as refused:
                ask(connection, one)
            assert "--from-beginning" in (refused.value.hint or "")
        assert steering.start(connection, stopped, from_beginning=True)
        row = connection.execute(
            text("SELECT week, pruned, checkpoint FROM scenarios WHERE id = :id"), {"id": stopped}
        ).one()
        assert row == (partitions.this_week(connection), False, 0)
    worker = PlayedWorker(database)
    assert worker.claim() == stopped
    worker.store(range(3))
    assert read(database, stopped) == 3
    with database.begin() as connection:
        steering.delete(connection, failed)


def test_what_never_stored_a_frame_is_not_pruned_and_runs_later(database: Database) -> None:
    stored(database, OLD)
    waiting, failed = (
        created(database, OLD, status=Status.INACTIVE),
        created(database, OLD, status=Status.INIT_STARTUP),
    )
    worker = PlayedWorker(database)
    assert worker.claim() == failed
    worker.end(Status.FAILED, "no such file")
    done = created(database, OLD, status=Status.INIT_STARTUP)
    assert worker.claim() == done
    worker.end(Status.COMPLETED)
    pruned = prune(database)
    assert pruned is not None
    assert pruned.scenarios == 4
    with database.begin() as connection:
        this_week = partitions.this_week(connection)
        rows = connection.execute(
            text("SELECT id, pruned, week FROM scenarios WHERE id = ANY(:ids) ORDER BY id"),
            {"ids": [waiting, failed, done]},
        ).all()
        assert steering.start(connection, waiting)
        assert steering.retry(connection, failed)
    # one that is completed starts only from the beginning, which is in the week of then
    assert rows == [(waiting, False, this_week), (failed, False, this_week), (done, False, OLD)]
    assert read(database, done) == 0
    for one in (waiting, failed):
        assert worker.claim() == one
        worker.store(range(3))
        worker.end(Status.COMPLETED)
        assert read(database, one) == 3


def test_a_run_of_another_week_commits_meanwhile(database: Database) -> None:
    stored(database, OLD)
    stored(database, NEWER, ends=None)
    worker = PlayedWorker(database, "other")
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/b.mp4"))
    running = worker.claim()
    stop = threading.Event()
    commits: list[int] = []

    def run() -> None:
        while not stop.is_set():
            worker.store(range(worker.checkpoint, worker.checkpoint + 5))
            commits.append(worker.checkpoint)

    thread = threading.Thread(target=run)
    thread.start()
    assert eventually(lambda: len(commits) > 3)
    assert prune(database) is not None
    before = len(commits)
    assert eventually(lambda: len(commits) > before + 3)
    stop.set()
    thread.join()
    assert weeks(database)[0] == NEWER
    assert read(database, running) == min(1000, worker.checkpoint)


def test_a_reader_is_waited_for_and_holds_nobody_up_but_the_prune(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, newer = stored(database, OLD), stored(database, NEWER)
    monkeypatch.setattr(pruning, "PAUSE_SECONDS", 0.05)
    done: list[pruning.Week | None] = []
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM predictions")
        thread = threading.Thread(target=lambda: done.append(prune(database)))
        thread.start()
        assert eventually(lambda: waits_for_a_lock(database))
        with database.begin() as connection:  # behind the DROP that waits, but not for long
            connection.execute(text("SET LOCAL lock_timeout = '4s'"))
            assert len(predictions.read_after(connection, newer, -1)) == 10
        assert not done
        assert is_whole(database, old)
    thread.join(30)
    assert len(done) == 1
    assert not is_whole(database, old)


def waits_for_a_lock(database: Database) -> bool:
    with database.begin() as connection:
        return bool(
            connection.execute(
                text("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
            ).scalar()
        )


def test_a_table_that_is_in_use_all_the_time_leaves_the_week_whole(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stored(database, OLD)
    monkeypatch.setattr(pruning, "TRIES", 2)
    monkeypatch.setattr(pruning, "PAUSE_SECONDS", 0.01)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM predictions")
        with pytest.raises(DatabaseUnavailable, match="2024-01-01") as refused:
            prune(database)
    assert "pg_stat_activity" in (refused.value.hint or "")
    assert is_whole(database, old)


def test_a_page_read_across_the_prune_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has found the week, and then the week is dropped."""
    old = stored(database, OLD)
    look = predictions._week

    def pruned_after_a_look(*arguments: object) -> date:
        week = look(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(predictions, "_week", look)
        prune(database)
        return week

    monkeypatch.setattr(predictions, "_week", pruned_after_a_look)
    with pytest.raises(Pruned):
        read(database, old)


@contextmanager
def held_up(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A session that uses `predictions` until the block ends."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT count(*) FROM predictions")
        yield connection


def _prune_elsewhere(url: str) -> None:
    prune(Database(url))


def test_killed_in_the_middle_the_week_is_whole(database: Database, database_url: str) -> None:
    old = stored(database, OLD)
    with held_up(database_url):
        process = multiprocessing.get_context("spawn").Process(
            target=_prune_elsewhere, args=(database_url,)
        )
        process.start()
        assert eventually(
            lambda: waits_for_a_lock(database), 30
        )  # it has marked, and wants to drop
        assert process.pid is not None
        os.kill(process.pid, 9)
        process.join()
    assert eventually(lambda: is_whole(database, old))
    with database.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        assert steering.start(connection, old, from_beginning=True)


def test_of_two_at_once_one_prunes_and_the_other_finds_nothing(database: Database) -> None:
    old = stored(database, OLD)
    done: list[pruning.Week | None] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        done.append(prune(database))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [one for one in done if one is None] == [None]
    assert len(done) == 2
    assert not is_whole(database, old)


def test_one_that_was_started_since_the_look_keeps_its_week(
    database: Database, database_url: str
) -> None:
    """The start holds its row while the prune comes for it."""
    old = stored(database, OLD, ends=Status.INACTIVE)
    (week,) = found(database, AGE)
    assert not week.unfinished
    done: list[pruning.Week | None] = []
    with database.begin() as connection:
        steering.start(connection, old)
        thread = threading.Thread(target=lambda: done.append(prune(database)))
        thread.start()
        assert eventually(lambda: waits_for_a_lock(database))
    thread.join(30)
    (left,) = done
    assert left is not None
    assert left.unfinished == (old,)
    assert is_whole(database, old)


def test_one_that_starts_while_the_week_goes_waits_and_is_refused(
    database: Database, database_url: str
) -> None:
    old = stored(database, OLD, ends=Status.INACTIVE)
    refused: list[Exception] = []

    def start() -> None:
        try:
            database.retrying(steering.start, old)
        except NotAllowedError as error:
            refused.append(error)

    with database.begin() as connection:
        pruning.prune(connection, OLD)
        thread = threading.Thread(target=start)
        thread.start()
        with psycopg.connect(database_url) as looker:
            assert eventually(
                lambda: (
                    looker.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone()
                    is not None
                )
            )
    thread.join(30)
    assert len(refused) == 1
