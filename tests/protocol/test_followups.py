"""Follow-ups and groups: created once, in the transaction of the end that they follow on."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import InputRejected, NotFoundError
from vidan.protocol import creation, expiry, followups, groups, lifecycle, tasks
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios, steering
from vidan.services.scenarios import Scenario

FIRST = tasks.TaskSpec("first", {}, needs_source=False)
LATER = tasks.TaskSpec("later", {}, needs_source=False)
LAST = tasks.TaskSpec("last", {}, needs_source=False)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, guarded=True, pool_size=10)
    with opened.begin() as connection:
        tasks.publish(connection, [FIRST, LATER, LAST])
    yield opened
    opened.close()


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    return PlayedWorker(database, tasks=("first",))


def create(database: Database, **more: Any) -> int:
    with database.begin() as connection:
        return creation.create(connection, NewScenario(task="first", **more)).id


def of_task(database: Database, task: str) -> list[Scenario]:
    with database.begin() as connection:
        return scenarios.find(connection, task=task, newest_first=False, limit=5000)


def execute(database: Database, statement: str, **parameters: object) -> Any:
    with database.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return result.all() if result.returns_rows else None


def restart(database: Database, scenario_id: int) -> None:
    with database.begin() as connection:
        steering.start(connection, scenario_id, from_beginning=True)


@pytest.mark.parametrize("given", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:00:00+00:00"])
def test_a_time_out_of_range_that_was_stored_before_ends_no_run(
    database: Database, worker: PlayedWorker, given: str
) -> None:
    create(database, then=[then()])
    stored = "UPDATE followups SET new = new || jsonb_build_object('not_before', CAST(:at AS text))"
    execute(database, stored, at=given)
    worker.claim()
    worker.end(Status.COMPLETED)
    (later,) = of_task(database, "later")
    assert later.not_before.year == (1970 if given < "1970" else 9000)


def then(task: str = "later", **more: Any) -> NewScenario:
    return NewScenario(task=task, **more)


@pytest.mark.parametrize(
    ("end", "followed_by"),
    [(Status.COMPLETED, "later"), (Status.FAILED, "last"), (Status.INACTIVE, None)],
)
def test_what_follows_is_told_by_the_end(
    database: Database, worker: PlayedWorker, end: Status, followed_by: str | None
) -> None:
    create(database, then=[then()], on_failure=[then("last")])
    predecessor = worker.claim()
    if end is Status.INACTIVE:
        with database.begin() as connection:
            steering.stop(connection, predecessor)
    assert not of_task(database, "later") + of_task(database, "last")
    worker.end(end)

    created = of_task(database, "later") + of_task(database, "last")
    assert [one.task for one in created] == ([] if followed_by is None else [followed_by])
    assert [one.parent_id for one in created] == [predecessor] * len(created)
    assert [one.status for one in created] == [Status.INIT_STARTUP] * len(created)


def test_a_follow_up_is_as_it_was_given_and_has_its_own(
    database: Database, worker: PlayedWorker
) -> None:
    create(
        database,
        then=[
            then(queue="slow", priority=3, labels={"a": "b"}, params={"then": [1]}),
            then("first", key="middle", max_attempts=0, then=[then("last", name="end")]),
        ],
    )
    worker.claim()
    worker.end(Status.COMPLETED)

    (later,) = of_task(database, "later")
    assert (later.queue, later.priority, later.labels) == ("slow", 3, {"a": "b"})
    assert later.params == {"then": [1]}
    middle = worker.claim()
    worker.end(Status.COMPLETED)
    (last,) = of_task(database, "last")
    assert (last.name, last.parent_id) == ("end", middle)
    with database.begin() as connection:
        assert scenarios.get(connection, middle).max_attempts == 0
        assert [one.actor for one in scenarios.history(connection, last.id)] == [worker.name]


def test_what_can_not_be_created_later_is_refused_now(database: Database) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        create(database, then=[then("nowhere")])
    with pytest.raises(InputRejected, match="no source"):
        create(database, on_failure=[then(then=[then(source="/a.mp4")])])
    chain = then()
    for _ in range(5000):
        chain = then(then=[chain])
    with pytest.raises(InputRejected, match="at most 100 steps"):
        create(database, then=[chain])
    far = datetime.now(UTC) + timedelta(days=101 * 366)
    with pytest.raises(InputRejected, match=r"not_before .* out of range"):
        create(database, then=[then(not_before=far)])
    with pytest.raises(InputRejected, match=r"not_before .* out of range"):
        group(database, [NewScenario(task="first")], not_before=far)
    assert of_task(database, "first") == []


def test_a_transaction_that_rolls_back_has_created_nothing(
    database: Database, worker: PlayedWorker
) -> None:
    predecessor = create(database, then=[then()])
    worker.claim()
    assert worker.fence is not None
    ending = lifecycle.Ending(worker.fence, Status.COMPLETED)
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        lifecycle.finish(connection, [ending], actor="test")
        assert followups.predecessor(connection, predecessor + 1) is not None
        raise ZeroDivisionError

    assert of_task(database, "later") == []
    worker.end(Status.COMPLETED)
    assert len(of_task(database, "later")) == 1


def test_a_scenario_that_is_started_again_creates_its_follow_ups_once(
    database: Database, worker: PlayedWorker
) -> None:
    create(database, then=[then()], on_failure=[then("last")])
    for end in (Status.FAILED, Status.COMPLETED, Status.FAILED, Status.COMPLETED):
        predecessor = worker.claim()
        worker.end(end)
        restart(database, predecessor)

    # it failed first, then completed: one of each
    assert len(of_task(database, "later")) == 1
    assert len(of_task(database, "last")) == 1


def test_a_spent_budget_of_errors_is_a_failure(database: Database, worker: PlayedWorker) -> None:
    create(database, on_failure=[then()], max_attempts=1)
    for expected in (0, 1):
        worker.claim()
        assert worker.fence is not None
        with database.begin() as connection:
            lifecycle.fail(connection, worker.fence, "broken", actor="test", delay=0)
        assert len(of_task(database, "later")) == expected


def test_a_spent_budget_of_crashes_is_a_failure(database: Database, worker: PlayedWorker) -> None:
    predecessor = create(database, on_failure=[then()])
    execute(database, "UPDATE scenarios SET crashes = max_crashes - 1")
    for expected in (0, 1):
        suspected = PlayedWorker(database, tasks=("first",), suspects=True)
        assert suspected.claim() == predecessor
        with database.begin() as connection:
            assert expiry.release_worker(
                connection, suspected.id, actor="test", executing=[predecessor]
            )
        assert len(of_task(database, "later")) == expected
        execute(database, "UPDATE scenarios SET not_before = now()")


def test_a_key_that_is_taken_creates_none(database: Database, worker: PlayedWorker) -> None:
    create(database, then=[then(key="one"), then(key="two")], priority=1)
    with database.begin() as connection:
        creation.create(connection, then(key="one"))
    worker.claim()
    worker.end(Status.COMPLETED)

    assert [one.key for one in of_task(database, "later")] == ["one", "two"]


def test_the_predecessor_is_seen_as_it_stands_and_may_go(
    database: Database, worker: PlayedWorker
) -> None:
    create(database, then=[then()])
    predecessor = worker.claim()
    assert worker.fence is not None
    with database.begin() as connection:
        ending = lifecycle.Ending(worker.fence, Status.COMPLETED, result='{"people": 3}')
        lifecycle.finish(connection, [ending], actor="test")
    (later,) = of_task(database, "later")
    with database.begin() as connection:
        assert followups.predecessor(connection, predecessor) is None
        seen = followups.predecessor(connection, later.id)
        assert seen == followups.Predecessor(predecessor, "first", Status.COMPLETED, {"people": 3})
        steering.delete(connection, predecessor)
        assert followups.predecessor(connection, later.id) == followups.Predecessor(predecessor)


def test_a_deleted_scenario_leaves_no_follow_ups(database: Database) -> None:
    predecessor = create(database, then=[then()], status=Status.INACTIVE)
    with database.begin() as connection:
        steering.delete(connection, predecessor)
    assert execute(database, "SELECT * FROM followups") == []


# --- groups


def group(database: Database, members: Sequence[NewScenario], **callback: Any) -> groups.Group:
    with database.begin() as connection:
        return groups.create(connection, members, then("last", **callback))


def test_the_callback_comes_with_the_last_end(database: Database, worker: PlayedWorker) -> None:
    made = group(database, [NewScenario(task="first")] * 3, name="sum")
    for end in (Status.COMPLETED, Status.FAILED, Status.COMPLETED):
        assert of_task(database, "last") == []
        worker.claim()
        worker.end(end)

    (callback,) = of_task(database, "last")
    assert callback.name == "sum"
    with database.begin() as connection:
        page = followups.members(connection, callback.id, limit=2)
        rest = followups.members(connection, callback.id, after=page[-1][0])
    assert [seen.id for _, seen in page + rest] == [one.id for one in made.members]
    assert [seen.status for _, seen in page + rest] == ["completed", "failed", "completed"]


def test_a_member_counts_once_a_stopped_one_not(database: Database, worker: PlayedWorker) -> None:
    made = group(database, [NewScenario(task="first")] * 3)
    for _ in range(3):  # the same one again and again
        assert worker.claim() == made.members[0].id
        worker.end(Status.FAILED)
        restart(database, made.members[0].id)
        execute(database, "UPDATE scenarios SET priority = 1 WHERE id = :id", id=1)
    with database.begin() as connection:
        steering.stop(connection, made.members[0].id)
        steering.stop(connection, made.members[1].id)
    worker.claim()
    worker.end(Status.COMPLETED)
    assert of_task(database, "last") == []  # one is stopped

    with database.begin() as connection:
        steering.delete(connection, made.members[1].id)
    assert len(of_task(database, "last")) == 1


def test_members_that_were_there(database: Database, worker: PlayedWorker) -> None:
    create(database, key="done")
    worker.claim()
    worker.end(Status.COMPLETED)
    create(database, key="waits")
    keyed = [NewScenario(task="first", key=key) for key in ("waits", "done", "waits")]
    made = group(database, keyed)
    assert [one.id for one in made.members] == [2, 1, 2]
    assert of_task(database, "last") == []
    worker.claim()
    worker.end(Status.COMPLETED)
    assert len(of_task(database, "last")) == 1


def test_a_member_that_is_deleted_while_the_group_is_made_is_made_anew(
    database: Database, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    predecessor = create(database, key="k", status=Status.INACTIVE)
    create_many = creation.create_many
    found: list[int] = []

    def and_then_deleted(*arguments: Any, **more: Any) -> list[creation.Created]:
        created = create_many(*arguments, **more)
        if not found:
            with database.begin() as other:
                steering.delete(other, predecessor)
        found.extend(one.id for one in created)
        return created

    monkeypatch.setattr(creation, "create_many", and_then_deleted)
    member = NewScenario(task="first", key="k")
    made = database.retrying(groups.create, [member], then("last"))
    assert [found[0], made.members[0].new] == [predecessor, True]
    worker.claim()
    worker.end(Status.COMPLETED)
    assert len(of_task(database, "last")) == 1


def test_an_empty_group_calls_back_at_once(database: Database) -> None:
    group(database, [])
    assert len(of_task(database, "last")) == 1


def test_a_deleted_callback_takes_its_group_along(database: Database) -> None:
    group(database, [])
    (callback,) = of_task(database, "last")
    execute(database, "UPDATE scenarios SET status = 'inactive', announce_at = NULL")
    with database.begin() as connection:
        steering.delete(connection, callback.id)
    assert execute(database, "SELECT * FROM groups") == []


def test_a_thousand_members_that_end_at_once_call_back_once(database: Database) -> None:
    """Two groups share members, which end in batches that overlap in both: no deadlock."""
    keyed = [NewScenario(task="first", key=f"{one:04}") for one in range(1000)]
    group(database, keyed, name="a")
    group(database, list(reversed(keyed))[:600], name="b")
    ends = [PlayedWorker(database, f"w{one}", tasks=("first",)) for one in range(5)]
    held = {one.id: one.take(200) for one in ends}
    conflicts: list[BaseException] = []

    def end_all(worker: PlayedWorker) -> None:
        fences = [one.fence for one in held[worker.id]]
        random.Random(worker.name).shuffle(fences)
        try:
            for start in range(0, 200, 40):
                endings = [
                    lifecycle.Ending(fence, Status.COMPLETED)
                    for fence in fences[start : start + 40]
                ]
                with database.begin() as connection:  # not `retrying`: a deadlock would show
                    assert len(lifecycle.finish(connection, endings, actor="test")) == 40
        except BaseException as error:
            conflicts.append(error)

    threads = [threading.Thread(target=end_all, args=(one,)) for one in ends]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert conflicts == []
    assert sorted(str(one.name) for one in of_task(database, "last")) == ["a", "b"]
    assert execute(database, "SELECT DISTINCT pending FROM groups") == [(0,)]


def test_a_task_without_follow_ups_costs_no_statement_more(
    database: Database, worker: PlayedWorker
) -> None:
    from sqlalchemy import event

    create(database)
    create(database, then=[then()])
    counted: list[str] = []
    for expected in (1, 4):
        worker.claim()
        counted.clear()
        assert worker.fence is not None
        ending = lifecycle.Ending(worker.fence, Status.COMPLETED)
        with database.begin() as connection:
            event.listen(connection, "before_cursor_execute", lambda *seen: counted.append(seen[2]))
            lifecycle.finish(connection, [ending], actor="test")
        assert (len(counted) == 1) == (expected == 1)


def test_nothing_follows_on_a_scenario_that_is_put_back(
    database: Database, worker: PlayedWorker
) -> None:
    create(database, then=[then()])
    worker.claim()
    assert worker.fence is not None
    with database.begin() as connection:
        assert lifecycle.hand_over(connection, [worker.fence], reason="test", actor="test")
    assert of_task(database, "later") == []
