"""Log lines of scenarios: their numbers, their bounds, and their end."""

from __future__ import annotations

from datetime import UTC, datetime
from threading import Thread

import pytest

from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import NotFoundError
from vidan.protocol import creation, kept_logs
from vidan.protocol.creation import NewScenario
from vidan.protocol.kept_logs import MAX_BYTES, MAX_LINES, Batch, Line
from vidan.services import scenario_logs, steering

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def scenario_id(database: Database) -> int:
    with database.begin() as connection:
        new = NewScenario(task="detect", source="/a.mp4", status=Status.INACTIVE)
        return creation.create(connection, new).id


def lines(*messages: str) -> list[Line]:
    return [Line(AT, 1, 20, "shop", message) for message in messages]


def keep(database: Database, scenario_id: int, *messages: str, cut: int = 0) -> None:
    batch = {scenario_id: Batch(lines(*messages), cut)}
    database.retrying(kept_logs.keep, batch, measure=[scenario_id])


def kept(database: Database, scenario_id: int) -> list[tuple[int, str]]:
    found = scenario_logs.read(database, scenario_id)
    return [(line.line, line.message) for page in found for line in page]


def missing(database: Database, scenario_id: int) -> int:
    with database.begin() as connection:
        return scenario_logs.cut(connection, scenario_id)


def test_lines_are_numbered_over_batches_and_runs(database: Database, scenario_id: int) -> None:
    keep(database, scenario_id, "a", "b")
    keep(database, scenario_id, "c", cut=5)
    assert kept(database, scenario_id) == [(1, "a"), (2, "b"), (8, "c")]
    assert missing(database, scenario_id) == 5


def test_the_newest_lines_are_kept(database: Database, scenario_id: int) -> None:
    for part in range(5):
        keep(database, scenario_id, *(f"{part}.{n}" for n in range(MAX_LINES // 4)))
    found = kept(database, scenario_id)
    assert len(found) == MAX_LINES
    assert found[0] == (MAX_LINES // 4 + 1, "1.0")
    assert missing(database, scenario_id) == MAX_LINES // 4


def test_the_bytes_of_all_lines_are_bounded(database: Database, scenario_id: int) -> None:
    for n in range(12):
        keep(database, scenario_id, *(f"{n}" + "ü" * 49_999 for _ in range(2)))
    found = kept(database, scenario_id)
    assert sum(len(message.encode()) for _, message in found) <= MAX_BYTES
    assert len(found) == 10
    assert [number for number, _ in found] == list(range(15, 25))


def test_a_deleted_scenario_takes_its_lines_along(database: Database, scenario_id: int) -> None:
    keep(database, scenario_id, "a")
    with database.begin() as connection:
        steering.delete(connection, scenario_id)
    keep(database, scenario_id, "late")
    with database.begin() as connection:
        assert scenario_logs.read_after(connection, scenario_id) == []
        with pytest.raises(NotFoundError):
            scenario_logs.cut(connection, scenario_id)
    with pytest.raises(NotFoundError):
        kept(database, scenario_id)


def test_lines_that_come_while_a_scenario_is_deleted_are_dropped(
    database: Database, scenario_id: int
) -> None:
    late = Thread(target=keep, args=[database, scenario_id, "late"])
    with database.begin() as connection:
        steering.delete(connection, scenario_id)
        late.start()
        late.join(0.3)  # it waits for the deletion
    late.join()
    with database.begin() as connection:
        assert scenario_logs.read_after(connection, scenario_id) == []


def test_two_processes_number_in_turn(database: Database, scenario_id: int) -> None:
    def write(name: str) -> None:
        for n in range(20):
            keep(database, scenario_id, f"{name}{n}")

    threads = [Thread(target=write, args=[name]) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = kept(database, scenario_id)
    assert [number for number, _ in found] == list(range(1, 41))
    assert [message for _, message in found if message[0] == "a"] == [f"a{n}" for n in range(20)]


def test_levels_pages_and_the_last_lines(database: Database, scenario_id: int) -> None:
    given = [Line(AT, 1, 10 * (n % 5 + 1), "shop", str(n)) for n in range(700)]
    database.retrying(kept_logs.keep, {scenario_id: Batch(given)})
    assert len(kept(database, scenario_id)) == 700
    pages = list(scenario_logs.read(database, scenario_id, level=50))
    assert [line.message for page in pages for line in page] == [str(n) for n in range(4, 700, 5)]
    with database.begin() as connection:
        start = scenario_logs.before_last(connection, scenario_id, 2, level=40)
        last = scenario_logs.read_after(connection, scenario_id, start, level=40)
        assert [line.level_name for line in last] == ["error", "critical"]
        assert scenario_logs.before_last(connection, scenario_id, 5_000) == 0
