"""Calls from Python, on a real database; a test plays the worker."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from vidan import Run, Vidan
from vidan.db.session import Database
from vidan.detection.catalogue import sample_video
from vidan.domain.status import Status
from vidan.errors import InputRejected, NotAllowedError, NotCompleted, TimedOut
from vidan.protocol import tasks
from vidan.protocol.tasks import TaskSpec
from vidan.services import scenarios
from vidan.services.scenarios import Scenario
from vidan.tasks.task import Task


@dataclass
class Called:
    """An app with two tasks, and the database that its calls use."""

    app: Vidan
    look: Task[..., dict[str, Any]]
    add: Task[..., int]
    database: Database

    def get(self, scenario_id: int) -> Scenario:
        with self.database.begin() as connection:
            return scenarios.get(connection, scenario_id)

    def count(self) -> int:
        with self.database.begin() as connection:
            return len(connection.execute(text("SELECT id FROM scenarios")).all())


@pytest.fixture
def called(database: Database) -> Iterator[Called]:
    app = Vidan(database.url)

    @app.task(name="shop.look", retries=7)
    def look(run: Run, min_score: float = 0.5, queue: str = "") -> dict[str, Any]:
        """Watch the source."""
        return {}

    @app.task(name="shop.add", source=False)
    def add(run: Run, when: datetime, a: int = 1) -> int:
        return a

    yield Called(app, look, add, database)
    app.scenario(1)._caller.database.close()


def test_delay_creates_a_scenario_before_any_worker_has_started(
    called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").symlink_to(sample_video())
    monkeypatch.chdir(tmp_path)
    handle = called.look.delay(source="clip.mp4", min_score="0.6")
    found = called.get(handle.id)
    assert (found.task, found.status) == ("shop.look", Status.INIT_STARTUP)
    assert found.source == str(tmp_path / "clip.mp4")
    assert found.params == {"min_score": 0.6}
    assert (found.max_attempts, found.queue, handle.new) == (7, "default", True)
    with called.database.begin() as connection:
        assert tasks.get(connection, "shop.look") == called.look.spec


def test_a_param_may_be_infinite_by_default(database: Database) -> None:
    app = Vidan(database.url)

    @app.task(name="shop.limit", source=False)
    def limit(run: Run, least: float = math.inf, steps: list[float] = [1, math.nan]) -> float:  # noqa: B006
        return least

    handle = limit.delay()
    with database.begin() as connection:
        tasks.publish(connection, [limit.spec])  # as a worker does when it starts
        properties = tasks.get(connection, "shop.limit").params_schema["properties"]
        assert scenarios.get(connection, handle.id).params == {}
    assert properties["least"] == {"title": "Least", "type": "number"}
    app.caller.database.close()


def test_what_a_worker_has_published_stands(called: Called) -> None:
    published = TaskSpec("shop.add", called.add.spec.params_schema, False, max_attempts=1)
    with called.database.begin() as connection:
        tasks.publish(connection, [published])
    handle = called.add.delay(when=datetime(2026, 1, 1, tzinfo=UTC))
    assert called.get(handle.id).max_attempts == 1
    assert called.get(handle.id).params == {"when": "2026-01-01T00:00:00Z"}
    with called.database.begin() as connection:
        assert tasks.get(connection, "shop.add") == published


def test_apply_takes_all_that_a_scenario_has(called: Called) -> None:
    at = datetime(2030, 1, 1, 6, tzinfo=UTC)
    handle = called.look.apply(
        {"queue": "a param"}, min_score=0.1, source=Path("/x.mp4"), check=False, at=at,
        queue="night", priority=3, key="k", retries=2, time_limit=timedelta(minutes=1),
        soft_time_limit=30, name="n", labels={"a": "b"},
    )  # fmt: skip
    found = called.get(handle.id)
    assert found.params == {"queue": "a param", "min_score": 0.1}
    assert (found.source, found.not_before, found.queue) == ("/x.mp4", at, "night")
    assert (found.priority, found.key, found.max_attempts) == (3, "k", 2)
    assert (found.name, found.labels) == ("n", {"a": "b"})
    with called.database.begin() as connection:
        limits = connection.execute(text("SELECT time_limit, soft_time_limit FROM scenarios")).one()
    assert tuple(limits) == (60, 30)
    again = called.look.apply(
        {"queue": "a param"}, min_score=0.1, source="/x.mp4", check=False, key="k"
    )
    assert (again.id, again.new) == (handle.id, False)


def test_after_counts_on_the_databases_clock(called: Called) -> None:
    handle = called.look.apply(source="rtsp://camera/1", after=timedelta(hours=1))
    with called.database.begin() as connection:
        row = connection.execute(
            text("SELECT not_before - created_at AS wait, announce_at = not_before AS same"
                 " FROM scenarios WHERE id = :id"), {"id": handle.id},
        ).one()  # fmt: skip
    assert (row.wait, row.same) == (timedelta(hours=1), True)


def test_many_are_created_together_or_not_at_all(called: Called) -> None:
    each = [{"source": f"rtsp://camera/{n}", "min_score": n / 10} for n in range(3)]
    handles = called.look.create_many(each)
    assert [called.get(one.id).source for one in handles] == [one["source"] for one in each]
    with pytest.raises(InputRejected):
        called.look.create_many([*each, {"source": "rtsp://camera/4", "priority": 2**40}])
    assert called.count() == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_score": "high"}, "param min_score"),
        ({"nothing": 1}, "param nothing"),
        ({"source": "/no/such.mp4"}, "no such file"),
        ({"source": 3}, "a source is a path or a URL"),
        ({"at": datetime(2030, 1, 1)}, "no time zone"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC), "after": 1}, "exclude each other"),
        ({"after": -1}, "after=-1 is out of range"),
        ({"after": "1h"}, "is not a duration"),
        ({"time_limit": 0}, "time_limit"),
        ({"params": {"min_score": 1}, "min_score": 1}, "given twice"),
    ],
    ids=lambda one: None if isinstance(one, str) else " ".join(one),
)
def test_what_is_wrong_is_refused_before_anything_is_queued(
    called: Called, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputRejected, match=said):
        called.look.apply(**{"source": "rtsp://camera/1", **wrong})
    assert called.count() == 0


def later(work: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(0.2, work)
    timer.start()
    return timer


def test_wait_returns_the_scenario_as_it_ended(called: Called) -> None:
    handle = called.look.delay(source="rtsp://camera/1")
    worker = PlayedWorker(called.database, tasks=("shop.look",))
    worker.claim()
    worker.store(range(3), found=1)
    timer = later(lambda: worker.end(Status.COMPLETED))
    ended = handle.wait(timeout=timedelta(seconds=30), check=True)
    timer.join()
    assert ended.status is handle.status is Status.COMPLETED
    assert handle.result == ended.result
    assert [one.frame for one in called.app.scenario(handle.id).predictions()] == [0, 1, 2]
    with pytest.raises(NotAllowedError):
        handle.stop()


def test_a_wait_that_times_out_says_so_and_ends_nothing(called: Called) -> None:
    handle = called.look.delay(source="rtsp://camera/1")
    with pytest.raises(TimedOut, match=f"scenario {handle.id} is still init_startup after 0.1 s"):
        handle.wait(timeout=0.1)
    assert handle.status is Status.INIT_STARTUP


def test_one_that_did_not_complete_raises_only_when_asked(called: Called) -> None:
    handle = called.look.delay(source="rtsp://camera/1")
    assert handle.stop()
    assert not handle.stop()
    assert handle.wait(timeout=5).status is Status.INACTIVE
    with pytest.raises(NotCompleted, match="is inactive"):
        handle.wait(timeout=5, check=True)
