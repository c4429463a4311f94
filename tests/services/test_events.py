"""Events: every change of a status is told once, whenever its transaction commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import events, steering
from vidan.services.events import Event, Position, Wanted

ALL = Wanted()


class Reader:
    """A reader that reads the events which became visible, page by page."""

    def __init__(self, database: Database, wanted: Wanted = ALL, page: int = 100) -> None:
        self.database, self.wanted, self.page = database, wanted, page
        self.position = Position()

    def from_now_on(self) -> Reader:
        with self.database.begin() as connection:
            self.position = events.now(connection)
        return self

    def read(self) -> list[Event]:
        found: list[Event] = []
        while True:
            with self.database.autocommit() as connection:
                page = events.read(connection, self.position, self.wanted, limit=self.page)
            self.position = page.position
            found += page.events
            if not page.more:
                return found

    def ids(self) -> list[int]:
        return [event.scenario_id for event in self.read()]


Create = Callable[..., list[int]]


@pytest.fixture
def create(database: Database) -> Create:
    def made(count: int = 1) -> list[int]:
        with database.begin() as connection:
            new = [NewScenario(source="/a.mp4")] * count
            return [one.id for one in creation.create_many(connection, new)]

    return made


class Late:
    """Transactions that have created scenarios and commit when told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.open: list[ExitStack] = []

    def create(self, count: int = 1, *, nested: bool = False) -> tuple[ExitStack, list[int]]:
        transaction = ExitStack()
        connection = transaction.enter_context(self.database.begin())
        self.open.append(transaction)
        new = [NewScenario(source="/late.mp4")] * count
        with connection.begin_nested() if nested else ExitStack():
            return transaction, [one.id for one in creation.create_many(connection, new)]


@pytest.fixture
def late(database: Database) -> Iterator[Late]:
    transactions = Late(database)
    yield transactions
    for one in transactions.open:
        one.close()


def test_changes_are_told_in_their_order(database: Database, create: Create) -> None:
    reader = Reader(database)
    (one,) = create()
    worker = PlayedWorker(database)
    worker.claim()
    worker.end(Status.COMPLETED)
    found = reader.read()
    assert [str(event.to_status) for event in found] == [
        "init_startup", "init_startup_processing", "active", "completed",
    ]  # fmt: skip
    assert {event.scenario_id for event in found} == {one}
    assert {(event.task, event.queue, event.source) for event in found} == {
        ("detect", "default", "/a.mp4")
    }
    assert found[1].actor == worker.name
    assert reader.read() == []


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("started", ["before", "meanwhile"])
def test_a_transaction_that_commits_late_is_not_missed(
    database: Database, create: Create, late: Late, started: str, nested: bool
) -> None:
    create()
    reader = Reader(database)
    if started == "before":
        reader.from_now_on()
    transaction, hidden = late.create(3, nested=nested)
    seen = create()
    if started == "meanwhile":
        reader.from_now_on()
        seen = []
    assert reader.ids() == seen
    assert reader.ids() == []
    others = create()
    assert reader.ids() == others
    transaction.close()
    assert reader.ids() == hidden
    assert reader.ids() == []
    assert reader.position.gaps == ()


def test_late_ones_among_late_ones(database: Database, create: Create, late: Late) -> None:
    create()  # the first of a week has its partition made, and others wait for that
    reader = Reader(database, page=2).from_now_on()
    first, of_first = late.create(5)
    second, of_second = late.create(5)
    assert reader.ids() == []
    between = create(5)
    assert reader.ids() == between
    second.close()
    assert reader.ids() == of_second
    more = create(1)
    assert reader.ids() == more
    first.close()
    assert reader.ids() == of_first
    assert reader.ids() == []


@pytest.mark.parametrize("beside", [False, True])
def test_one_that_began_later_and_ends_later_is_not_missed(
    database: Database, create: Create, late: Late, beside: bool
) -> None:
    """It draws lower ids, and its number is above that of the last transaction that has ended."""
    first, second = create(2)
    reader = Reader(database).from_now_on()
    other, of_other = late.create() if beside else (ExitStack(), [])  # it runs from before
    with database.begin() as connection:
        steering.stop(connection, first)  # this one has its number
        transaction, hidden = late.create()
        steering.stop(connection, second)
    assert reader.ids() == [first, second]
    other.close()
    assert reader.ids() == of_other
    transaction.close()
    assert reader.ids() == hidden
    create()
    reader.read()
    assert reader.read() == []
    assert reader.position.gaps == ()


def test_one_that_ends_after_many_pages_were_skipped_is_not_missed(
    database: Database, create: Create, late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(1)
    with pytest.raises(RuntimeError), database.begin() as connection:
        creation.create(connection, NewScenario(source="/never.mp4"))
        raise RuntimeError
    create(1)
    monkeypatch.setattr(events, "SKIPPED_AT_ONCE", 2)
    looks: list[list[int]] = []
    look = events._next_page

    def meanwhile(*arguments: Any) -> events.Page:
        looks.append([])
        if len(looks) == 2:
            with database.begin() as connection:
                creation.create(connection, NewScenario(source="/b.mp4"))
                looks[1] = late.create()[1]
                creation.create(connection, NewScenario(source="/b.mp4"))
        return look(*arguments)

    monkeypatch.setattr(events, "_next_page", meanwhile)
    reader = Reader(database).from_now_on()
    hidden = looks[1]
    assert reader.ids() == []
    late.open[0].close()
    assert reader.ids() == hidden != []


def test_what_was_rolled_back_is_forgotten(database: Database, create: Create) -> None:
    reader = Reader(database).from_now_on()
    with pytest.raises(RuntimeError), database.begin() as connection:
        creation.create(connection, NewScenario(source="/never.mp4"))
        raise RuntimeError
    kept = create()
    assert reader.ids() == kept
    reader.read()
    assert reader.position.gaps == ()


def test_a_long_transaction_of_others_delays_nothing(
    database: Database, create: Create, late: Late
) -> None:
    with database.begin() as other:
        other.execute(text("CREATE TABLE theirs (x int)"))  # it has a number, and continues
        reader = Reader(database).from_now_on()
        for _ in range(3):
            made = create(2)
            assert reader.ids() == made
        transaction, hidden = late.create()
        made = create()
        assert reader.ids() == made
        transaction.close()
        assert reader.ids() == hidden


def test_of_a_deleted_scenario_nothing_is_left(database: Database, create: Create) -> None:
    reader = Reader(database)
    first, second = create(2)
    with database.begin() as connection:
        steering.request(connection, first, Status.INACTIVE)
        steering.delete(connection, first)
    assert reader.ids() == [second]


def test_only_what_is_wanted(database: Database, create: Create) -> None:
    one, two = create(2)
    worker = PlayedWorker(database)
    assert worker.claim() == one
    worker.end(Status.FAILED, "no")

    def ids(wanted: Wanted) -> list[int]:
        return Reader(database, wanted, page=3).ids()

    assert ids(Wanted(status=[Status.FAILED])) == [one]
    assert ids(Wanted(scenario_id=two)) == [two]
    assert ids(Wanted(scenario_id=one, status=[Status.ACTIVE, Status.FAILED])) == [one, one]
    assert len(ids(Wanted(task="detect"))) == 5
    assert ids(Wanted(task="other")) == []
    assert ids(Wanted(task="nul\x00")) == []


def test_since(database: Database, create: Create) -> None:
    old = create(30)
    with database.begin() as connection:
        connection.execute(text("UPDATE transitions SET at = now() - interval '2 hours'"))
    new = create(2)

    def ids(ago: timedelta) -> list[int]:
        with database.begin() as connection:
            at = events.moment(connection, ago)
            reader = Reader(database, Wanted(since=at))
            reader.position = events.since(connection, at)
        assert reader.position.last >= len(old) or ago > timedelta(hours=2)
        return reader.ids()

    assert ids(timedelta(hours=1)) == new
    assert ids(timedelta(hours=3)) == [*old, *new]
    assert ids(timedelta(0)) == []
    assert Reader(database).from_now_on().ids() == []
