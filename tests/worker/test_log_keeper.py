"""What becomes of a task's log lines: they are kept with the scenario, and disturb nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import eventually
from vidan import logs
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import creation, kept_logs
from vidan.protocol.creation import NewScenario
from vidan.protocol.kept_logs import MAX_LINES
from vidan.services import scenario_logs
from vidan.services.scenario_logs import LogLine
from vidan.worker.log_keeper import LogKeeper

log = logging.getLogger("shop")


@pytest.fixture
def scenario_id(database: Database) -> int:
    with database.begin() as connection:
        new = NewScenario(task="detect", source="/a.mp4", status=Status.INACTIVE)
        return creation.create(connection, new).id


@pytest.fixture
def keeper(database_url: str) -> Iterator[LogKeeper]:
    """A keeper of all lines, whose thread does not run: the test calls `store`."""
    made = LogKeeper(database_url)
    root = logging.getLogger()
    level = root.level
    root.addHandler(made)
    root.setLevel(logging.INFO)
    yield made
    root.removeHandler(made)
    root.setLevel(level)
    made._database.close()


def kept(database: Database, scenario_id: int) -> list[LogLine]:
    with database.begin() as connection:
        return scenario_logs.read_after(connection, scenario_id, limit=10_000)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("in the middle of a log line")


def test_lines_about_a_scenario_are_kept_as_they_are_logged(
    keeper: LogKeeper, database: Database, scenario_id: int
) -> None:
    log.info("about nothing")
    with logs.bound(scenario_id=scenario_id, epoch=3):
        log.debug("below the level")
        log.info("%s of %d", "one", 2)
        log.warning("two\nlines, \x00 and \udcff from postgresql://me:secret@host/db")
        try:
            raise KeyError("missing")
        except KeyError:
            log.exception("it failed")
        log.error("as text", extra={"trace": "Traceback: of text"})
        log.info("x" * 100_000)
    adapter = logging.LoggerAdapter(log, {"scenario_id": scenario_id})
    thread = threading.Thread(target=lambda: adapter.info("from a thread of its own"))
    thread.start()
    thread.join()
    keeper.store()
    found = kept(database, scenario_id)
    assert [one.message for one in found[:4]] == [
        "one of 2",
        "two\nlines, \\x00 and \\udcff from postgresql://host/db",
        "it failed",
        "as text",
    ]
    assert [one.level_name for one in found] == "info warning error error info info".split()
    assert {one.epoch for one in found} == {3, None}
    assert {one.logger for one in found} == {"shop"}
    assert "KeyError: 'missing'" in str(found[2].traceback)
    assert found[3].traceback == "Traceback: of text"
    assert len(found[4].message) == 8_000
    assert "92,0" in found[4].message
    assert found[5].message == "from a thread of its own"


def test_no_line_breaks_the_task(
    keeper: LogKeeper, database: Database, scenario_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with logs.bound(scenario_id=scenario_id):
        log.info("too %d few", "many")
        log.info("%s", Unprintable())
        log.info("fine", extra={"scenario_id": "not a number"})
        log.log(100_000, "above all levels")
    log.info("of no scenario", extra={"scenario_id": 2**70})
    keeper.store()
    found = kept(database, scenario_id)
    assert [one.message for one in found] == ["fine", "above all levels"]


def test_lines_wait_for_a_database_within_bounds(
    keeper: LogKeeper, database: Database, scenario_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("it is away")

    with logs.bound(scenario_id=scenario_id):
        log.info("first")
        with monkeypatch.context() as patch:
            patch.setattr(kept_logs, "keep", away)
            with pytest.raises(DatabaseUnavailable):
                keeper.store()
            for n in range(MAX_LINES + 500):
                log.info("%d", n)
            with pytest.raises(DatabaseUnavailable):
                keeper.store()
        log.info("last")
        keeper.store()
    found = kept(database, scenario_id)
    assert (len(found), found[-1].message) == (MAX_LINES, "last")
    assert found[-1].line == MAX_LINES + 502
    with database.begin() as connection:
        assert scenario_logs.cut(connection, scenario_id) == 502


def test_lines_arrive_by_themselves_and_the_last_ones_when_it_leaves(
    database_url: str, database: Database, scenario_id: int
) -> None:
    log.setLevel(logging.INFO)
    with LogKeeper(database_url), logs.bound(scenario_id=scenario_id):
        log.info("first")
        assert eventually(lambda: len(kept(database, scenario_id)) == 1, 10)
        log.info("last")
    assert [one.message for one in kept(database, scenario_id)] == ["first", "last"]
    log.setLevel(logging.NOTSET)


def test_a_line_costs_a_task_microseconds(keeper: LogKeeper, scenario_id: int) -> None:
    with logs.bound(scenario_id=scenario_id):
        best = min(_seconds_of_a_thousand() for _ in range(5))
    assert best < 0.25, f"{best * 1000:.0f} us a line"


def _seconds_of_a_thousand() -> float:
    started = time.perf_counter()
    for n in range(1000):
        log.info("frame %d", n)
    return time.perf_counter() - started


def test_a_forked_child_keeps_nothing(
    keeper: LogKeeper, database: Database, scenario_id: int
) -> None:
    with logs.bound(scenario_id=scenario_id):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                log.info("of the child")
                code = len(keeper._waiting)
            finally:
                os._exit(code)
        log.info("of the parent")
    assert os.waitpid(pid, 0)[1] == 0
    keeper.store()
    assert [one.message for one in kept(database, scenario_id)] == ["of the parent"]
