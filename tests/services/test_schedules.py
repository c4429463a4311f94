"""Schedules: published with an app, fired once over any number of orchestrators."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from vidan.db.session import Database
from vidan.domain.schedule import Schedule
from vidan.errors import NotFoundError
from vidan.protocol import tasks
from vidan.run.run import Run
from vidan.services import scenarios, schedules
from vidan.services.scenarios import Scenario
from vidan.services.schedules import Fired, Scheduled
from vidan.tasks.app import Vidan

TASK = tasks.TaskSpec("nightly", {}, needs_source=False)
HOURLY = Schedule("0 * * * *", name="hourly", params={"a": 1}, queue="slow")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, guarded=True, pool_size=10)
    with opened.begin() as connection:
        tasks.publish(connection, [TASK])
    yield opened
    opened.close()


def publish(database: Database, *given: Schedule, app: str = "videos:app") -> None:
    with database.begin() as connection:
        schedules.publish(connection, app, [("nightly", one) for one in given])


def known(database: Database) -> list[Scheduled]:
    with database.begin() as connection:
        return schedules.find(connection)


def created(database: Database) -> list[Scenario]:
    with database.begin() as connection:
        return scenarios.find(connection, newest_first=False, limit=1000)


def fire(database: Database) -> list[Fired]:
    with database.begin() as connection:
        return schedules.fire(connection, actor="test")


def let_pass(database: Database, hours: int) -> None:
    """Let all schedules have been due for `hours`."""
    with database.begin() as connection:
        connection.execute(
            text(
                "UPDATE schedules SET next_at = date_trunc('hour', now())"
                " - make_interval(hours => :hours)"
            ),
            {"hours": hours},
        )


def test_a_schedule_that_is_due_creates_its_scenario(database: Database) -> None:
    publish(database, HOURLY)
    assert fire(database) == []
    let_pass(database, 0)
    assert fire(database) == [Fired("hourly", (1,))]
    assert fire(database) == []

    (one,) = created(database)
    (schedule,) = known(database)
    assert schedule.last_at is not None
    assert (one.task, one.params, one.queue) == ("nightly", {"a": 1}, "slow")
    assert one.key == f"schedule:hourly:{schedule.last_at.isoformat()}"
    assert one.labels == {"schedule": "hourly"}
    assert schedule.last_id == one.id
    assert schedule.next_at - schedule.last_at == timedelta(hours=1)


def test_what_is_registered_is_published_and_fired(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Vidan()
    full = Schedule(
        "0 * * * *", name="n" * 900, source=Path("clip.mp4"), params={"x": 0.5}, queue="q" * 1000,
        priority=-(2**31),
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)

    @app.task(name="look", schedule=full)
    def look(run: Run, x: float = 1) -> None: ...

    monkeypatch.chdir("/")
    with database.begin() as connection:
        tasks.publish(connection, [look.spec])
        schedules.publish(connection, "videos:app", [("look", one) for one in look.schedules])
    let_pass(database, 0)
    assert [one.error for one in fire(database)] == [None]
    (one,) = created(database)
    assert (one.source, one.params) == (str(tmp_path / "clip.mp4"), {"x": 0.5})
    assert (one.queue, one.priority) == ("q" * 1000, -(2**31))


@pytest.mark.parametrize(("catch_up", "expected"), [("latest", 1), ("all", 6)])
def test_missed_times_are_made_up_for(database: Database, catch_up: Any, expected: int) -> None:
    publish(database, Schedule("0 * * * *", name="hourly", catch_up=catch_up))
    let_pass(database, 5)
    fire(database)
    assert len(created(database)) == expected
    assert known(database)[0].next_at > known(database)[0].last_at  # type: ignore[operator]
    assert fire(database) == []


def test_missed_times_are_skipped(database: Database) -> None:
    publish(database, Schedule("0 0 1 1 *", name="yearly", catch_up="skip"))
    with database.begin() as connection:
        connection.execute(
            text("UPDATE schedules SET next_at = date_trunc('year', now()) - interval '1 year'")
        )
    assert fire(database) in ([Fired("yearly", ())], [Fired("yearly", (1,))])  # on New Year's Day
    assert known(database)[0].next_at.year == datetime.now().year + 1


def test_many_orchestrators_fire_each_time_once(database: Database) -> None:
    publish(database, *(Schedule("0 * * * *", name=f"s{one}", catch_up="all") for one in range(20)))
    let_pass(database, 9)
    together = threading.Barrier(8)
    broken: list[BaseException] = []

    def orchestrate() -> None:
        try:
            together.wait(10)
            for _ in range(5):
                with database.begin() as connection:  # not `retrying`: a deadlock would show
                    schedules.fire(connection, actor="test", limit=3)
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=orchestrate) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert broken == []
    assert len(created(database)) == 20 * 10
    assert len({one.key for one in created(database)}) == 20 * 10


def test_an_orchestrator_that_dies_in_the_middle_leaves_it_to_another(database: Database) -> None:
    publish(database, HOURLY)
    let_pass(database, 0)
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        assert len(schedules.fire(connection, actor="test")) == 1
        assert fire(database) == []  # locked: another passes over it
        raise ZeroDivisionError
    assert created(database) == []
    assert len(fire(database)) == 1
    assert len(created(database)) == 1


def test_the_key_keeps_a_time_from_running_twice(database: Database) -> None:
    publish(database, HOURLY)
    for _ in range(2):
        let_pass(database, 0)
        assert fire(database)[0].ids == (1,)
    assert len(created(database)) == 1


def test_what_an_app_has_no_more_goes(database: Database) -> None:
    publish(database, HOURLY, Schedule("0 6 * * *", name="morning"))
    publish(database, Schedule("0 6 * * *", name="others"), app="others:app")
    publish(database, HOURLY)
    assert [one.name for one in known(database)] == ["hourly", "others"]
    publish(database)
    assert [one.name for one in known(database)] == ["others"]


def test_what_is_published_again_keeps_its_time_unless_its_cron_changed(
    database: Database,
) -> None:
    publish(database, HOURLY)
    let_pass(database, 2)
    publish(database, HOURLY)
    assert len(fire(database)) == 1
    let_pass(database, 2)
    with database.begin() as connection:
        schedules.pause(connection, "hourly")
    publish(database, Schedule("30 * * * *", name="hourly"))
    (one,) = known(database)
    assert (one.cron, one.next_at.minute, one.enabled, one.last_id) == ("30 * * * *", 30, False, 1)
    assert fire(database) == []


def test_a_pause_is_not_made_up_for(database: Database) -> None:
    publish(database, Schedule("0 * * * *", name="hourly", catch_up="all"))
    with database.begin() as connection:
        assert schedules.pause(connection, "hourly")
        assert not schedules.pause(connection, "hourly")
        assert schedules.next_due(connection) is None
    let_pass(database, 3)
    assert fire(database) == []
    with database.begin() as connection:
        assert schedules.resume(connection, "hourly")
        assert not schedules.resume(connection, "hourly")
        due = schedules.next_due(connection)
    assert due is not None
    assert timedelta(0) < due <= timedelta(hours=1)
    assert fire(database) == []


def test_one_that_can_not_be_created_says_why_and_holds_up_no_other(database: Database) -> None:
    publish(database, Schedule("0 * * * *", name="broken", source="/a.mp4"), HOURLY)
    let_pass(database, 0)
    fired = {one.name: one for one in fire(database)}
    assert fired["hourly"].ids == (1,)
    assert "takes no source" in str(fired["broken"].error)
    broken = known(database)[0]
    assert (broken.error, broken.last_id) == (fired["broken"].error, None)
    assert fire(database) == []


def test_one_whose_times_can_not_be_told_holds_up_no_other(database: Database) -> None:
    """The worker that published it knows a time zone that this host lacks."""
    publish(database, Schedule("0 * * * *", name="elsewhere"), HOURLY)
    let_pass(database, 0)
    with database.begin() as connection:
        connection.execute(
            text("UPDATE schedules SET timezone = 'No/Where' WHERE name = 'elsewhere'")
        )
    fired = {one.name: one for one in fire(database)}
    assert fired["hourly"].ids == (1,)
    assert "no time zone 'No/Where'" in str(fired["elsewhere"].error)
    assert known(database)[0].error == fired["elsewhere"].error
    assert fire(database) == []


def test_an_unknown_one(database: Database) -> None:
    for ask in (schedules.get, schedules.pause, schedules.resume):
        with pytest.raises(NotFoundError, match="no schedule 'x'"), database.begin() as connection:
            ask(connection, "x")
