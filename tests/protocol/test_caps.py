"""Caps of tasks: any number of workers exceeds neither a concurrency nor a rate."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import claims, creation, expiry, lifecycle, tasks
from vidan.protocol.claims import Claimed
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import TaskSpec

FREE = TaskSpec("free", {}, needs_source=False)
PAIR = TaskSpec("pair", {}, needs_source=False, concurrency=2)
TRIO = TaskSpec("trio", {}, needs_source=False, concurrency=3)
SLOW = TaskSpec("slow", {}, needs_source=False, rate_limit="10/h")
SPECS = (FREE, PAIR, TRIO, SLOW)


@pytest.fixture
def published(database: Database) -> Database:
    """A database whose tasks are known."""
    publish(database, *SPECS)
    return database


def publish(database: Database, *specs: TaskSpec) -> None:
    with database.begin() as connection:
        tasks.publish(connection, specs)


def create(database: Database, task: str, count: int = 1, **more: Any) -> list[int]:
    with database.begin() as connection:
        new = [NewScenario(task=task, **more) for _ in range(count)]
        return [one.id for one in creation.create_many(connection, new)]


def execute(database: Database, sql: str, **parameters: object) -> None:
    with database.begin() as connection:
        connection.execute(text(sql), parameters)


def worker_of(
    database: Database, name: str = "w", queues: tuple[str, ...] = ("default",)
) -> PlayedWorker:
    """A worker that has all the tasks, and knows which of them are capped."""
    worker = PlayedWorker(database, name, queues=queues, tasks=tuple(one.name for one in SPECS))
    capped = tuple(one.name for one in SPECS if one.capped)
    worker.claimant = replace(worker.claimant, capped=capped)
    return worker


def claim(worker: PlayedWorker, free: int, ahead: int = 0) -> list[Claimed]:
    with worker.database.begin() as connection:
        return claims.claim(connection, worker.claimant, free, ahead=ahead)


def finish(worker: PlayedWorker, *claimed: Claimed) -> None:
    with worker.database.begin() as connection:
        endings = [lifecycle.Ending(one.fence, Status.COMPLETED) for one in claimed]
        assert len(lifecycle.finish(connection, endings, actor=worker.name)) == len(claimed)


def names(claimed: list[Claimed]) -> list[str]:
    return sorted(one.task for one in claimed)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that are sent to the database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, sql: str, *_more: Any) -> None:
        sent.append(sql)

    engine = database._engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


# --- concurrency


def test_no_more_are_claimed_than_may_run_at_once(published: Database) -> None:
    create(published, "pair", 5)
    first, second = worker_of(published, "a"), worker_of(published, "b")
    held = claim(first, 9)
    assert len(held) == 2
    assert claim(second, 9) == []
    finish(first, held[0])
    assert len(claim(second, 9)) == 1


def test_the_room_of_a_task_is_one_over_all_queues(published: Database) -> None:
    for queue in ("day", "night"):
        create(published, "pair", 3, queue=queue)
        create(published, "free", 3, queue=queue)
    worker = worker_of(published, queues=("day", "night"))
    assert names(claim(worker, 99)) == ["free"] * 6 + ["pair"] * 2


def test_what_is_claimed_ahead_counts_as_held(published: Database) -> None:
    create(published, "trio", 9, priority=1)
    create(published, "free", 9)
    worker = worker_of(published)
    assert names(claim(worker, 2, ahead=4)) == ["free"] * 3 + ["trio"] * 3
    assert names(claim(worker, 0, ahead=2)) == ["free"] * 2


def test_priority_is_kept_between_tasks_with_and_without_a_cap(published: Database) -> None:
    low = create(published, "free", 2, priority=1)
    middle = create(published, "pair", 3, priority=2)
    high = create(published, "free", 1, priority=3)
    taken = [one.fence.scenario_id for one in claim(worker_of(published), 4)]
    assert taken == [*high, *middle[:2], low[0]]


def test_of_several_caps_each_is_kept(published: Database) -> None:
    for task in ("pair", "trio", "slow", "free"):
        create(published, task, 5)
    expected = ["free"] * 5 + ["pair"] * 2 + ["slow"] + ["trio"] * 3
    assert names(claim(worker_of(published), 99)) == expected


def test_what_a_dead_worker_held_counts_until_it_is_released(published: Database) -> None:
    create(published, "pair", 3)
    dead, other = worker_of(published, "dead"), worker_of(published, "other")
    assert len(claim(dead, 9)) == 2
    dead.let_lease_end()
    assert claim(other, 9) == []
    with published.begin() as connection:
        expiry.expire(connection, actor="test")
    execute(published, "UPDATE scenarios SET not_before = now()")
    assert len(claim(other, 9)) == 2


def test_of_two_claims_at_once_one_leaves_the_capped_task_and_neither_waits(
    published: Database,
) -> None:
    create(published, "trio", 5)
    create(published, "free", 4)  # two of them are looked at by the first as well
    first, second = worker_of(published, "a"), worker_of(published, "b")
    with published.begin() as open_claim:
        held = claims.claim(open_claim, first.claimant, 2)
        assert names(held) == ["trio"] * 2
        assert names(claim(second, 9)) == ["free"] * 2  # while the first has not committed
    assert names(claim(second, 9)) == ["free"] * 2 + ["trio"]


def test_a_claim_that_is_rolled_back_used_up_nothing(published: Database) -> None:
    create(published, "pair", 2)
    create(published, "slow")
    worker = worker_of(published)
    with pytest.raises(ZeroDivisionError), published.begin() as connection:
        assert len(claims.claim(connection, worker.claimant, 9)) == 3
        raise ZeroDivisionError
    assert len(claim(worker, 9)) == 3


def test_the_limits_are_those_that_were_published_last(published: Database) -> None:
    create(published, "pair", 9)
    worker = worker_of(published)
    assert len(claim(worker, 9)) == 2
    publish(published, replace(PAIR, concurrency=5))
    assert len(claim(worker, 9)) == 3
    publish(published, replace(PAIR, concurrency=1))
    assert claim(worker, 9) == []
    publish(published, replace(PAIR, concurrency=None))
    assert len(claim(worker, 9)) == 4


def test_what_was_claimed_until_the_row_could_be_locked_is_counted(published: Database) -> None:
    """One claim begins to look for the task's row, and is slow; meanwhile another is committed."""
    create(published, "trio", 9)
    first, second = worker_of(published, "a"), worker_of(published, "b")
    for sql in (
        "ALTER TABLE tasks RENAME TO tasks_behind",
        "CREATE FUNCTION let_in() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1);"
        " RETURN true; END $$",
        "CREATE VIEW tasks AS SELECT * FROM tasks_behind WHERE let_in()",
    ):
        execute(published, sql)
    later: list[Claimed] = []
    slow = threading.Thread(target=lambda: later.extend(claim(second, 9)))
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")

    with published.begin() as gate:
        with published.begin() as open_claim:
            assert len(claims.claim(open_claim, first.claimant, 2)) == 2
            gate.execute(text("SELECT pg_advisory_lock(1)"))
            slow.start()
            assert eventually(lambda: gate.execute(waiting).scalar() == 1, 30)
        gate.execute(text("SELECT pg_advisory_unlock(1)"))
    slow.join(30)

    assert len(later) == 1


def test_many_claimants_at_once_are_never_over_a_limit_and_lose_nothing(
    published: Database,
) -> None:
    """Some claims are lost before they are committed, and tasks are published meanwhile."""
    wanted = [
        one
        for queue in ("day", "night")
        for task, count in (("pair", 60), ("trio", 60), ("free", 15))
        for one in create(published, task, count, queue=queue)
    ]
    limits = {"pair": 2, "trio": 3}
    done: list[int] = []
    wrong: list[object] = []
    until = time.monotonic() + 120

    def held(connection: Connection) -> dict[str, int]:
        found = connection.execute(
            text(
                "SELECT task, count(*) AS held FROM scenarios"
                " WHERE worker_id IS NOT NULL GROUP BY task"
            )
        )
        return {row.task: row.held for row in found}

    def work(number: int) -> None:
        chance = random.Random(number)
        order = ("day", "night") if number % 2 else ("night", "day")
        worker = worker_of(published, str(number), order)
        worker.let_lease_end(-600)
        while len(done) < len(wanted) and time.monotonic() < until and not wrong:
            free, ahead = chance.choice([(1, 0), (2, 0), (2, 3), (0, 2)])
            try:
                with published.begin() as connection:
                    claimed = claims.claim(connection, worker.claimant, free, ahead=ahead)
                    if chance.random() < 0.2:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                continue
            with published.begin() as connection:
                now_held = held(connection)
            wrong.extend((one, now_held) for one in limits if now_held.get(one, 0) > limits[one])
            if chance.random() < 0.1:
                publish(published, replace(FREE, summary=str(chance.random())), PAIR, TRIO)
            if claimed:  # else it looks again at once, so that one locks when another commits
                time.sleep(0.005)
                finish(worker, *claimed)
                done.extend(one.fence.scenario_id for one in claimed)

    def watched(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=watched, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(done) == wanted


# --- rates


def test_no_more_start_than_the_rate_allows(published: Database) -> None:
    create(published, "slow", 5)
    worker = worker_of(published)
    assert len(claim(worker, 9)) == 1
    assert claim(worker, 9) == []
    let_pass(published, seconds=360)  # ten an hour
    assert len(claim(worker, 9)) == 1
    assert claim(worker, 9) == []


def test_a_pause_saves_up_one_start_or_one_seconds_worth(published: Database) -> None:
    publish(published, replace(TRIO, concurrency=None, rate_limit="5/s"))
    create(published, "trio", 20)
    create(published, "slow", 5)
    worker = worker_of(published)
    assert names(claim(worker, 99)) == ["slow"] + ["trio"] * 5
    let_pass(published, seconds=36_000)
    assert names(claim(worker, 99)) == ["slow"] + ["trio"] * 5


def test_starts_at_once_are_paid_for_afterwards(published: Database) -> None:
    publish(published, replace(TRIO, concurrency=None, rate_limit="60/m"))
    create(published, "trio", 5)
    worker = worker_of(published)
    for _ in range(3):
        assert len(claim(worker, 9)) == 1
        let_pass(published, seconds=1)
    with published.begin() as connection:
        waits = connection.execute(
            text("SELECT rate_next <= now() FROM tasks WHERE name = 'trio'")
        ).scalar_one()
    assert waits


def test_a_start_counts_again_when_a_scenario_is_tried_again(published: Database) -> None:
    create(published, "slow")
    worker = worker_of(published)
    (claimed,) = claim(worker, 9)
    with published.begin() as connection:
        lifecycle.hand_over(connection, [claimed.fence], reason="test", actor="test")
    assert claim(worker, 9) == []
    let_pass(published, seconds=360)
    assert len(claim(worker, 9)) == 1


def test_a_rate_is_kept_when_the_task_is_published_again_and_begins_anew_when_changed(
    published: Database,
) -> None:
    create(published, "slow", 5)
    worker = worker_of(published)
    assert len(claim(worker, 9)) == 1
    publish(published, replace(SLOW, summary="the same rate"))
    assert claim(worker, 9) == []
    publish(published, replace(SLOW, rate_limit="9/h"))
    assert len(claim(worker, 9)) == 1


def test_a_clock_that_is_set_back_stops_no_rate(published: Database) -> None:
    create(published, "slow", 5)
    worker = worker_of(published)
    assert len(claim(worker, 9)) == 1
    let_pass(published, seconds=-86_400)
    assert claim(worker, 9) == []
    let_pass(published, seconds=360)
    assert len(claim(worker, 9)) == 1


def test_a_rate_and_a_concurrency_hold_together(published: Database) -> None:
    publish(published, replace(TRIO, rate_limit="5/s"))
    create(published, "trio", 9)
    worker = worker_of(published)
    held = claim(worker, 9)
    assert len(held) == 3
    let_pass(published, seconds=60)
    assert claim(worker, 9) == []
    finish(worker, *held)
    assert len(claim(worker, 9)) == 3


def let_pass(database: Database, *, seconds: float) -> None:
    """Be so much later, as the rates see it."""
    execute(
        database,
        "UPDATE tasks SET rate_next = rate_next - make_interval(secs => :s)",
        s=seconds,
    )


# --- what it costs others


def test_a_worker_without_capped_tasks_sends_one_statement(published: Database) -> None:
    create(published, "free", 3)
    create(published, "pair", 3)
    worker = PlayedWorker(published, tasks=("free", "detect"))
    worker.claimant = worker.claimant  # its definitions are not looked up again
    with statements(published) as sent:
        assert len(claim(worker, 2, ahead=1)) == 3
        assert claim(worker, 2, ahead=1) == []
    assert len(sent) == 2
    assert all("tasks t" not in one for one in sent)


def test_nothing_is_locked_of_a_capped_task_that_is_not_due(published: Database) -> None:
    create(published, "free", 3)
    create(published, "pair", 1, queue="elsewhere")
    first, second = worker_of(published, "a"), worker_of(published, "b", ("elsewhere",))
    with published.begin() as open_claim:
        with statements(published) as sent:
            claims.claim(open_claim, first.claimant, 1)
        assert len(sent) == 2  # one that asks what is due, and the claim
        assert names(claim(second, 9)) == ["pair"]


def test_caps_are_those_of_the_tasks_row_whatever_a_worker_believes(published: Database) -> None:
    create(published, "pair", 5)
    worker = PlayedWorker(published, tasks=("pair", "detect"))
    worker.claimant = replace(worker.claimant, capped=())
    assert claim(worker, 5, ahead=2) == []  # it looks at the caps before its next claim
    worker.claimant = replace(worker.claimant, capped=("pair", "detect"))
    assert len(claim(worker, 5, ahead=2)) == 2
