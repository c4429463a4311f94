"""New scenarios: their stored values, repeated keys, and refused input."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Field
from sqlalchemy import Connection, text

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import VIDEO, create_one, get
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import InputRejected, NotFoundError
from vidan.protocol import creation, keys, partitions, tasks
from vidan.protocol.creation import NewScenario
from vidan.run.run import Run
from vidan.services import predictions, scenarios, steering
from vidan.tasks.app import Vidan


def test_a_created_scenario_waits_and_is_announced_at_once(database: Database) -> None:
    created = get(database, create_one(database))
    assert created.status is Status.INIT_STARTUP
    assert (created.queue, created.priority, created.max_attempts) == ("default", 0, 3)
    assert (created.params, created.labels, created.result) == ({}, {}, None)
    with database.begin() as connection:
        (first,) = scenarios.history(connection, created.id)
        row = connection.execute(
            text("SELECT announce_at, not_before, created_at, week FROM scenarios")
        ).one()
        assert row.week == partitions.this_week(connection)
    assert (first.from_status, first.to_status, first.reason) == (
        None,
        Status.INIT_STARTUP,
        "created",
    )
    assert row.announce_at == row.not_before == row.created_at
    assert row.created_at.tzinfo is not None


def test_all_that_is_given_is_stored(database: Database) -> None:
    when = datetime.now(UTC) + timedelta(hours=3)
    new = NewScenario(
        source="/videos/ü 😀.mp4",
        params={"model": "nanodet-g", "every": 2},
        name="a name with 'quotes' and ; DROP TABLE scenarios",
        key="k",
        labels={"camera": "1", "ü": r"\u0000 is only text"},
        queue="night",
        priority=-5,
        not_before=when,
        max_attempts=0,
    )
    found = get(database, create_one(database, new))
    assert (found.source, found.params, found.name) == (new.source, new.params, new.name)
    assert (found.key, found.labels, found.queue) == ("k", new.labels, "night")
    assert (found.priority, found.max_attempts, found.not_before) == (-5, 0, when)
    with database.begin() as connection:
        announce_at = connection.execute(text("SELECT announce_at FROM scenarios")).scalar_one()
    assert announce_at == when


@pytest.mark.parametrize("hours", [-14, 0, 14])
@pytest.mark.parametrize("past", [datetime.min, datetime(1970, 1, 1, 1)])
def test_a_time_of_long_ago_is_now(database: Database, past: datetime, hours: int) -> None:
    when = past.replace(tzinfo=timezone(timedelta(hours=hours)))
    new = replace(VIDEO, not_before=when)
    found = get(database, create_one(database, replace(new, then=[new])))
    assert found.not_before == found.created_at
    worker = PlayedWorker(database)
    assert worker.claim() == found.id
    worker.end(Status.COMPLETED)
    assert worker.claim() == found.id + 1


@pytest.mark.parametrize("hours", [-23, 23])
def test_a_time_may_have_any_zone_of_pythons(database: Database, hours: int) -> None:
    when = datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=hours)))
    assert get(database, create_one(database, replace(VIDEO, not_before=when))).not_before == when


def test_one_that_is_created_inactive_is_not_announced(database: Database) -> None:
    found = get(database, create_one(database, replace(VIDEO, status=Status.INACTIVE)))
    assert found.status is Status.INACTIVE
    with database.begin() as connection:
        assert connection.execute(text("SELECT announce_at FROM scenarios")).scalar() is None


def test_many_are_created_in_their_order(database: Database) -> None:
    news = [
        NewScenario(source=f"/videos/{n}.mp4", key=None if n % 3 else f"key {n}")
        for n in range(2000)
    ]
    with database.begin() as connection:
        created = creation.create_many(connection, news)
        assert all(one.new for one in created)
        ids = [one.id for one in created]
        assert ids == sorted(ids)
        found = scenarios.find(connection, ids=ids, limit=5000, newest_first=False)
        assert [one.source for one in found] == [new.source for new in news]
        assert creation.create_many(connection, []) == []


def test_a_repeated_key_returns_the_scenario_that_has_it(database: Database) -> None:
    first = create_one(database, replace(VIDEO, key="k"))
    with database.begin() as connection:
        news = [replace(VIDEO, key=key) for key in ("k", "l", None, "l")]
        again = creation.create_many(connection, news)
        assert again[0] == creation.Created(first, new=False)
        assert [one.new for one in again] == [False, True, True, False]
        assert again[1].id == again[3].id
        assert len(scenarios.history(connection, first)) == 1


def test_a_key_that_two_create_at_once_is_one_scenario(database: Database) -> None:
    created: list[creation.Created] = []
    barrier = threading.Barrier(2)

    def second() -> None:
        barrier.wait()
        with database.begin() as connection:
            created.append(creation.create(connection, replace(VIDEO, key="k")))

    thread = threading.Thread(target=second)
    thread.start()
    with database.begin() as connection:
        created.append(creation.create(connection, replace(VIDEO, key="k")))
        barrier.wait()
        threading.Event().wait(0.1)  # the second waits for this transaction by now
    thread.join()
    assert len(created) == 2
    assert created[0].id == created[1].id
    assert sorted(one.new for one in created) == [False, True]


def test_a_key_whose_scenario_is_deleted_meanwhile_makes_a_new_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create_one(database, replace(VIDEO, key="k", status=Status.INACTIVE))
    looked: list[int] = []
    look = keys.holders

    def deleted_after_a_look(
        connection: Connection, names: Collection[str]
    ) -> dict[str, keys.Holder]:
        if not looked:  # another has created it since, so that the insert meets its key
            looked.append(1)
            return {}
        if len(looked) == 1:
            looked.append(2)
            with database.begin() as other:
                steering.delete(other, first)
        return look(connection, names)

    monkeypatch.setattr(keys, "holders", deleted_after_a_look)
    created = database.retrying(creation.create, replace(VIDEO, key="k"))
    assert created.new
    assert created.id > first


def test_ids_follow_the_order_given_whatever_the_keys(database: Database) -> None:
    with database.begin() as connection:
        news = [replace(VIDEO, key=key) for key in ("c", None, "a", None, "b")]
        found = [one.id for one in creation.create_many(connection, news)]
    assert found == sorted(found)


REFUSED: dict[str, NewScenario] = {
    "an unknown param": NewScenario(params={"no_such": 1}),
    "a param of a wrong type": NewScenario(params={"every": "often"}),
    "a model that is not there": NewScenario(params={"model": "no-such-model"}),
    "every and fps": NewScenario(params={"every": 2, "fps": 1.0}),
    "an empty source": NewScenario(source=""),
    "an empty key": NewScenario(key=""),
    "an empty queue": NewScenario(queue=""),
    "a key too long for its index": NewScenario(key="ü" * 600),
    "a status that a worker sets": NewScenario(status=Status.ACTIVE),
    "a label that is no string": NewScenario(labels={"n": 1}),  # type: ignore[dict-item]
    "retries that are no whole number": NewScenario(max_attempts=1.5),  # type: ignore[arg-type]
    "a time that is none": NewScenario(not_before="2030-01-01"),  # type: ignore[arg-type]
    "a queue that is no text": NewScenario(queue=None),  # type: ignore[arg-type]
    "a key that is no text": NewScenario(key=1),  # type: ignore[arg-type]
    "a priority out of range": NewScenario(priority=2**31),
    "a priority that is no integer": NewScenario(priority=1.5),  # type: ignore[arg-type]
    "a priority that is a bool": NewScenario(priority=True),
    "max_attempts below 0": NewScenario(max_attempts=-1),
    "max_attempts out of range": NewScenario(max_attempts=2**31),
    "a time without a zone": NewScenario(not_before=datetime(2030, 1, 1)),
    "a time in the year 10000": NewScenario(
        not_before=datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14)))
    ),
    "a time in 101 years": NewScenario(not_before=datetime.now(UTC) + timedelta(days=101 * 366)),
    "a follow-up in 101 years": NewScenario(
        then=[NewScenario(not_before=datetime.now(UTC) + timedelta(days=101 * 366))]
    ),
    "a NUL in the source": NewScenario(source="a\x00b"),
    "a NUL in a label": NewScenario(labels={"a\x00": "b"}),
    "half a character": NewScenario(source="/videos/\udcff.mp4"),
}


@pytest.mark.parametrize("new", REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_is_refused_before_a_row_is_written(
    database: Database, new: NewScenario
) -> None:
    with pytest.raises(InputRejected), database.begin() as connection:
        creation.create_many(connection, [VIDEO, new])
    with database.begin() as connection:
        assert scenarios.find(connection) == []


ANYTHING = tasks.TaskSpec("anything", {}, needs_source=False, max_attempts=1)


@pytest.mark.parametrize(
    "params",
    [
        {"x": float("nan")},
        {"x": [{"deep": "a\x00"}]},
        {"x": object()},
        {"\ud800": 1},
        {"x": 10**5000},
        {"x": "y" * 20_000_000},
    ],
    ids=["nan", "nul", "object", "surrogate", "integer", "huge"],
)
def test_params_that_jsonb_does_not_take_are_refused(
    database: Database, params: dict[str, Any]
) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [ANYTHING])
        with pytest.raises(InputRejected):
            creation.create(connection, NewScenario(task="anything", params=params))


DATED: dict[str, tuple[object, object]] = {
    "since": ("2026-11-01T12:00", "yesterday"),
    "day": ("2026-11-01", "2026-13-01"),
    "after": ("PT5M", "soon"),
    "id": ("0ee5d5d6-2a6f-4b5c-8b0e-6a1f5e1b9f00", "none"),
}


@pytest.mark.parametrize("param", DATED)
def test_dates_and_durations_are_checked_as_the_worker_will(database: Database, param: str) -> None:
    app = Vidan()

    @app.task(name="dated", source=False)
    def dated(
        run: Run,
        since: datetime | None = None,
        day: date | None = None,
        after: timedelta | None = None,
        id: UUID | None = None,
    ) -> None:
        """Do nothing."""

    right, wrong = DATED[param]
    with database.begin() as connection:
        tasks.publish(connection, [app.tasks["dated"].spec])
        creation.create(connection, NewScenario(task="dated", params={param: right}))
        with pytest.raises(InputRejected):
            creation.create(connection, NewScenario(task="dated", params={param: wrong}))


Capitalised = Annotated[str, Field(pattern=r"^\p{Lu}\p{L}+$")]


Small = Annotated[str, Field(pattern="^[a-z]+$")]


def test_patterns_that_only_pydantic_knows_are_left_to_the_worker(database: Database) -> None:
    app = Vidan()

    @app.task(name="named", source=False)
    def named(
        run: Run,
        name: Capitalised,
        names: list[Capitalised] | None,
        counts: dict[Capitalised, int],
        code: Small,
    ) -> None:
        """Do nothing."""

    given: dict[str, Any] = {"name": "Änne", "names": ["Ärne"], "counts": {"Ülo": 3}, "code": "a"}
    wrong: list[dict[str, Any]] = [
        {"code": "A"},
        {"name": 7},
        {"names": [7]},
        {"counts": 7},
        {"else": 1},
    ]
    with database.begin() as connection:
        tasks.publish(connection, [app.tasks["named"].spec])
        creation.create(connection, NewScenario(task="named", params=given))
        for one in wrong:
            with pytest.raises(InputRejected, match=next(iter(one))):
                creation.create(connection, NewScenario(task="named", params=given | one))


def test_a_published_task_gives_its_own_defaults(database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [ANYTHING])
        large = {"x": "y" * 1_000_000, "n": 2**70, "none": None}
        scenario_id = creation.create(connection, NewScenario(task="anything", params=large)).id
        found = scenarios.get(connection, scenario_id)
        assert (found.params, found.max_attempts) == (large, 1)
        with pytest.raises(InputRejected, match="takes no source"):
            creation.create(connection, NewScenario(task="anything", source="/a.mp4"))
        with pytest.raises(NotFoundError, match="no task 'no-such'") as refused:
            creation.create(connection, NewScenario(task="no-such"))
        assert "there are anything, detect." in (refused.value.hint or "")


def test_publishing_again_brings_a_task_up_to_date(database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [ANYTHING, tasks.DETECT])
        tasks.publish(connection, [replace(ANYTHING, summary="new", max_attempts=9)])
        assert tasks.get(connection, "anything").summary == "new"
        assert [spec.name for spec in tasks.find(connection)] == ["anything", "detect"]
        assert tasks.get(connection, "detect") == tasks.DETECT


def test_a_row_inserted_by_plain_sql_works_too(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO scenarios (source) VALUES ('/videos/a.mp4')"))
        partitions.ensure_ahead(connection)  # an orchestrator has done so
    worker = PlayedWorker(database)
    scenario_id = worker.claim()
    worker.store(range(10))
    worker.end(Status.COMPLETED)
    with database.begin() as connection:
        found = scenarios.get(connection, scenario_id)
        assert (found.status, found.frames_done, found.task) == (Status.COMPLETED, 10, "detect")
        assert len(predictions.read_after(connection, scenario_id, -1)) == 10


def test_the_database_refuses_what_plain_sql_must_not_do(database: Database) -> None:
    for column, value in [
        ("status", "'gone'"),
        ("checkpoint", "-1"),
        ("labels", "'[]'"),
        ("attempts", "-1"),
        ("not_before", "'-infinity'"),
        ("not_before", "'10000-01-01'"),
        ("announce_at", "'infinity'"),
    ]:
        with pytest.raises(Exception, match="violates check constraint"), database.begin() as c:
            c.execute(text(f"INSERT INTO scenarios ({column}) VALUES ({value})"))


def test_a_required_param_is_asked_for_when_none_is_given(database: Database) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    with database.begin() as connection:
        tasks.publish(connection, [tasks.TaskSpec("needy", schema, needs_source=False)])
    with pytest.raises(InputRejected, match="x"), database.begin() as connection:
        creation.create(connection, NewScenario(task="needy"))
