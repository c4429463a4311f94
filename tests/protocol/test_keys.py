"""Keys: the same work is found again, other work is refused, what has failed is retried."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import VIDEO, create_one, execute, get, last_reason, stop
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import InputRejected, KeyTaken, NotAllowedError
from vidan.protocol import creation, groups, keys, param_checks, tasks
from vidan.protocol.creation import Created, NewScenario
from vidan.protocol.tasks import TaskSpec
from vidan.services import scenarios

KEYED = replace(VIDEO, key="k")
CROP = {"type": "object", "properties": {"x": {"type": "integer", "default": 0}, "y": {}}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {"Crop": CROP, "Tree": {"properties": {"next": {"$ref": "#/$defs/Tree"}}}},
    "properties": {
        "n": {"type": "number", "default": 3},
        "flag": {"default": False},
        "note": {"default": None},
        "any": {},
        "crop": {"anyOf": [{"$ref": "#/$defs/Crop"}, {"type": "null"}], "default": None},
        "crops": {"type": "array", "items": {"$ref": "#/$defs/Crop"}},
        "tree": {"$ref": "#/$defs/Tree"},
    },
}


def again(database: Database, new: NewScenario) -> Created:
    with database.begin() as connection:
        return creation.create(connection, new, actor="again")


def publish(database: Database, *specs: TaskSpec) -> None:
    with database.begin() as connection:
        tasks.publish(connection, specs)


SAME = [
    ({}, {}),
    ({}, {"n": 3}),
    ({"n": 3.0, "note": None}, {"n": 3e0}),
    ({"n": 1, "any": {"a": [1, 2.50], "b": None}}, {"any": {"b": None, "a": [1.0, 2.5]}, "n": 1}),
    ({"crop": {"y": 1}}, {"crop": {"x": 0, "y": 1}}),
    ({"crops": [{}, {"x": 1}]}, {"crops": [{"x": 0}, {"x": 1}]}),
    ({"tree": {"next": {"next": {}}}}, {"tree": {"next": {"next": {}}}, "flag": False}),
    ({"any": 2**70}, {"any": 2**70}),
]
OTHER = [
    ({}, {"n": 4}, "param n"),
    ({}, {"note": "a"}, "param note"),
    ({"flag": True}, {"flag": 1}, "param flag"),
    ({"flag": False}, {"flag": 0}, "param flag"),
    ({"any": 1}, {"any": "1"}, "param any"),
    ({"any": [1, 2]}, {"any": [2, 1]}, "param any"),
    ({"any": [1, 2]}, {"any": [1, 2, 3]}, "param any"),
    ({"any": {"a": None}}, {"any": {}}, "param any"),
    ({"any": None}, {}, "param any"),
    ({"crop": {"y": 1}}, {"crop": {"x": 5, "y": 1}}, "param crop"),
    ({"any": 2**70}, {"any": 2**70 + 1}, "param any"),
    ({"any": 0.1}, {"any": 0.1000000000000001}, "param any"),
    ({"n": 1, "any": 1}, {"n": 2, "any": 2}, "param any, param n"),
]


@pytest.mark.parametrize(("stored", "given"), SAME)
def test_the_same_params_are_found_however_they_are_written(
    database: Database, stored: dict[str, Any], given: dict[str, Any]
) -> None:
    publish(database, TaskSpec("t", SCHEMA, needs_source=False))
    first = create_one(database, NewScenario(task="t", params=stored, key="k"))
    for params in (given, stored):
        assert again(database, NewScenario(task="t", params=params, key="k")) == Created(
            first, new=False
        )


@pytest.mark.parametrize(("stored", "given", "said"), OTHER)
def test_other_params_are_refused_by_name(
    database: Database, stored: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    publish(database, TaskSpec("t", SCHEMA, needs_source=False))
    first = create_one(database, NewScenario(task="t", params=stored, key="k"))
    with pytest.raises(KeyTaken, match=f"scenario {first}, which differs in {said}$") as refused:
        again(database, NewScenario(task="t", params=given, key="k"))
    assert "--key-reuse" in str(refused.value.hint)
    reused = NewScenario(task="t", params=given, key="k", key_reuse=True)
    assert again(database, reused) == Created(first, new=False)
    with database.begin() as connection:
        assert len(scenarios.find(connection)) == 1


def test_a_number_that_python_can_not_hold_is_other_work(database: Database) -> None:
    publish(database, TaskSpec("t", {}, needs_source=False))
    create_one(database, NewScenario(task="t", key="k"))
    execute(database, """UPDATE scenarios SET params = '{"e": 1e5000}'""")
    with pytest.raises(KeyTaken, match="param e"):
        again(database, NewScenario(task="t", params={"e": 1.5}, key="k"))


def test_another_task_or_source_is_refused(database: Database) -> None:
    publish(database, TaskSpec("t", {}))
    create_one(database, KEYED)
    with pytest.raises(KeyTaken, match=r"differs in task$"):
        again(database, replace(KEYED, task="t"))
    for source in ("/videos/other.mp4", None):
        with pytest.raises(KeyTaken, match=r"differs in source$"):
            again(database, replace(KEYED, source=source))


def test_where_and_when_it_runs_is_no_other_work(database: Database) -> None:
    first = create_one(database, KEYED)
    other = replace(KEYED, queue="slow", priority=9, name="n", labels={"a": "b"}, max_attempts=1,
                    time_limit=5.0, not_before=datetime.now(UTC) + timedelta(hours=1),
                    then=[VIDEO])  # fmt: skip
    assert again(database, other) == Created(first, new=False)
    assert (get(database, first).queue, get(database, first).priority) == ("default", 0)


def test_a_source_that_its_worker_brought_is_not_the_creators(database: Database) -> None:
    first = create_one(database, NewScenario(key="k"))
    PlayedWorker(database, source="rtsp://camera/1").claim()
    assert get(database, first).source == "rtsp://camera/1"
    assert again(database, NewScenario(key="k")).id == first
    with pytest.raises(KeyTaken, match="source"):
        again(database, NewScenario(key="k", source="rtsp://camera/1"))


def test_one_key_for_two_works_in_one_call_is_refused(database: Database) -> None:
    said = "given to two scenarios that differ in source"
    with pytest.raises(KeyTaken, match=said), database.begin() as connection:
        creation.create_many(connection, [KEYED, replace(KEYED, source="/videos/2.mp4")])
    with database.begin() as connection:
        assert scenarios.find(connection) == []


def test_two_works_that_come_at_once_under_one_key(database: Database) -> None:
    refused: list[KeyTaken] = []
    barrier = threading.Barrier(2)

    def second() -> None:
        barrier.wait()
        try:
            database.retrying(creation.create, replace(KEYED, source="/videos/2.mp4"))
        except KeyTaken as error:
            refused.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    with database.begin() as connection:
        creation.create(connection, KEYED)
        barrier.wait()
        threading.Event().wait(0.1)  # the second waits for this transaction by now
    thread.join()
    assert len(refused) == 1
    with database.begin() as connection:
        assert len(scenarios.find(connection)) == 1


def test_a_key_is_free_once_its_scenario_is_deleted(database: Database) -> None:
    first = create_one(database, replace(KEYED, status=Status.INACTIVE))
    with database.begin() as connection:
        scenarios.get(connection, first)
        connection.execute(text("DELETE FROM scenarios"))
    assert again(database, replace(KEYED, source="/videos/2.mp4")).new


# --- retry_failed

RETRIED = replace(KEYED, retry_failed=True)


def test_what_has_failed_is_retried_once(database: Database) -> None:
    first = create_one(database, KEYED)
    worker = PlayedWorker(database)
    worker.claim()
    worker.store([0, 1])
    worker.end(Status.FAILED, "broken")
    assert again(database, KEYED).found is Status.FAILED
    assert get(database, first).status is Status.FAILED

    retried = again(database, RETRIED)
    assert (retried.id, retried.new, retried.resumed) == (first, False, True)
    found = get(database, first)
    assert (found.status, found.checkpoint, found.error) == (Status.INIT_STARTUP, 2, None)
    assert last_reason(database, first) == "its key was asked for again"
    assert not again(database, RETRIED).resumed  # it waits already
    assert worker.claim() == first
    worker.end(Status.COMPLETED)
    assert (again(database, RETRIED).resumed, get(database, first).status) == (
        False,
        Status.COMPLETED,
    )


def test_what_was_stopped_is_started(database: Database) -> None:
    first = create_one(database, KEYED)
    stop(database, first)
    assert again(database, RETRIED).resumed
    assert get(database, first).status is Status.INIT_STARTUP


def test_two_that_retry_at_once_retry_once(database: Database) -> None:
    first = create_one(database, KEYED)
    stop(database, first)
    resumed: list[bool] = []

    def retry() -> None:
        resumed.append(database.retrying(creation.create, RETRIED).resumed)

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(resumed) == [False, False, False, True]
    with database.begin() as connection:
        assert len(scenarios.history(connection, first)) == 3


def test_other_work_is_not_retried(database: Database) -> None:
    first = create_one(database, KEYED)
    stop(database, first)
    other = replace(RETRIED, source="/videos/2.mp4")
    with pytest.raises(KeyTaken):
        again(database, other)
    assert get(database, first).status is Status.INACTIVE
    assert again(database, replace(other, key_reuse=True)).resumed


def test_what_was_pruned_can_not_resume(database: Database) -> None:
    first = create_one(database, KEYED)
    stop(database, first)
    execute(database, "UPDATE scenarios SET pruned = true")
    with pytest.raises(NotAllowedError, match="pruned") as refused:
        again(database, RETRIED)
    assert f"start {first} --from-beginning" in str(refused.value.hint)


WITHOUT_MEANING = {
    "key_reuse without a key": replace(VIDEO, key_reuse=True),
    "retry_failed without a key": replace(VIDEO, retry_failed=True),
    "retry_failed that is held back": replace(RETRIED, status=Status.INACTIVE),
    "a follow-up that would retry": replace(VIDEO, then=[RETRIED]),
    "a follow-up of a follow-up that would": replace(VIDEO, then=[replace(VIDEO, then=[RETRIED])]),
}


@pytest.mark.parametrize("which", WITHOUT_MEANING)
def test_what_has_no_meaning_is_refused(database: Database, which: str) -> None:
    with pytest.raises(InputRejected):
        create_one(database, WITHOUT_MEANING[which])


# --- groups


def test_a_member_that_failed_is_retried_and_waited_for(database: Database) -> None:
    create_one(database, KEYED)
    worker = PlayedWorker(database)
    worker.claim()
    worker.end(Status.FAILED, "broken")
    with database.begin() as connection:
        groups.create(connection, [RETRIED], replace(VIDEO, name="last"))
        assert [one.name for one in scenarios.find(connection)] == [None]
    worker.claim()
    worker.end(Status.COMPLETED)
    with database.begin() as connection:
        assert [one.name for one in scenarios.find(connection)] == ["last", None]


def test_a_member_of_other_work_is_refused_unless_it_is_reused(database: Database) -> None:
    create_one(database, KEYED)
    other = replace(KEYED, source="/videos/2.mp4")
    with pytest.raises(KeyTaken), database.begin() as connection:
        groups.create(connection, [other], VIDEO)
    with database.begin() as connection:
        made = groups.create(connection, [replace(other, key_reuse=True)], VIDEO)
    assert [one.id for one in made.members] == [1]


def test_the_defaults_of_a_schema_are_as_long_as_it(database: Database) -> None:
    """A schema that contains itself ends, however deep the value is."""
    value: dict[str, Any] = {}
    for _ in range(200):
        value = {"next": value}
    schema = {**SCHEMA["$defs"]["Tree"], "$defs": SCHEMA["$defs"]}
    work = [keys.Work("t", None, given) for given in ('{"next": {}}', '{"next": {"next": {}}}')]
    assert keys.differences(work[0], work[0], schema) == []
    assert keys.differences(work[0], work[1], schema) == ["param next"]


def test_large_params_are_compared_within_the_time_that_their_check_has() -> None:
    crop = {"properties": {f"p{n}": {"default": n} for n in range(20)}}
    schema = {
        "properties": {"crops": {"items": {"$ref": "#/$defs/Crop"}}},
        "$defs": {"Crop": crop},
    }
    one, other = (
        keys.Work("cut", None, json.dumps({"crops": [{}] * count})) for count in (50_000, 50_001)
    )
    with param_checks.limited_to(0.2), pytest.raises(InputRejected, match="too long"):
        keys.differences(one, other, schema)
    small, same, differing = (
        keys.Work("cut", None, f'{{"crops": {crops}}}')
        for crops in ('[{"p3": 3.0}, {"p4": 5}]', '[{}, {"p4": 5}]', "[{}, {}]")
    )
    assert keys.differences(small, same, schema) == []
    assert keys.differences(small, differing, schema) == ["param crops"]
