"""Messages that can't be used: kept as they came, each once."""

from __future__ import annotations

from typing import Any

import pytest

from vidan.broker.base import Received
from vidan.db.session import Database
from vidan.errors import NotFoundError
from vidan.inbox import scenario_ids
from vidan.services import dead_letters
from vidan.services.dead_letters import NewLetter

LETTER: dict[str, Any] = {
    "topic": "scenarios",
    "partition": 3,
    "offset": 2**40,
    "timestamp_ms": 1_700_000_000_123,
    "key": b"7",
    "payload": b"\x00\xffnot json",
    "error": "not a scenario event",
}


def add(database: Database, **changes: Any) -> bool:
    with database.begin() as connection:
        return dead_letters.add(connection, [NewLetter(**{**LETTER, **changes})]) == 1


def test_a_letter_is_kept_as_it_came(database: Database) -> None:
    assert add(database)
    with database.begin() as connection:
        (found,) = dead_letters.find(connection)
        assert dead_letters.get(connection, found.id) == found
    assert (found.topic, found.partition, found.offset) == ("scenarios", 3, 2**40)
    assert (found.key, found.payload) == (b"7", b"\x00\xffnot json")
    assert found.message_at.timestamp() == pytest.approx(1_700_000_000.123)
    assert found.as_json()["payload"] == "\x00\\xffnot json"


def test_the_same_letter_is_kept_once(database: Database) -> None:
    assert add(database)
    assert not add(database)
    assert add(database, offset=0)
    # an embedded broker starts again at offset 0: the same place, another message
    assert add(database, timestamp_ms=1)
    assert add(database, payload=b"another")
    assert add(database, key=b"8")
    with database.begin() as connection:
        assert len(dead_letters.find(connection)) == 5


def test_the_newest_come_first_page_by_page(database: Database) -> None:
    for offset in range(5):
        add(database, offset=offset, key=None, payload=None)
    with database.begin() as connection:
        first = dead_letters.find(connection, limit=2)
        assert [one.offset for one in first] == [4, 3]
        rest = dead_letters.find(connection, after_id=first[-1].id)
        assert [one.offset for one in rest] == [2, 1, 0]
        assert rest[0].as_json()["key"] is None
        assert len(dead_letters.find(connection, after_id=2**80, limit=2**80)) == 5
        assert dead_letters.find(connection, limit=-1) == []
        assert dead_letters.find(connection, after_id=-(2**80)) == []
        assert dead_letters.find(connection, topic="another") == []
        assert len(dead_letters.find(connection, topic="scenarios")) == 5
        assert dead_letters.find(connection, topic="\x00") == []


@pytest.mark.parametrize("letter_id", [0, -1, 12, 2**63, 2**80])
def test_one_that_is_not_there_is_not_found(database: Database, letter_id: int) -> None:
    with pytest.raises(NotFoundError), database.begin() as connection:
        dead_letters.get(connection, letter_id)


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 2**62, -(2**62), 253_402_300_800_000])
def test_a_time_that_no_calendar_has_stops_nobody(database: Database, timestamp_ms: int) -> None:
    """The sender of a message chooses its timestamp."""
    assert add(database, timestamp_ms=timestamp_ms)
    assert not add(database, timestamp_ms=timestamp_ms)


POISON = [
    None,
    b"",
    b"\xff\xfe",
    b"null",
    b'{"v": 2, "scenario_id": 1}',
    b'{"v": 1, "scenario_id": 0}',
    b'{"v": 1, "scenario_id": -5}',
    b'{"v": 1, "scenario_id": 9223372036854775808}',
    b'{"v": 1, "scenario_id": "1"}',
    b'{"v": 1, "scenario_id": "\\u0000"}',
    b'{"v": 1, "scenario_id": "\\ud800"}',
    b"[" * 10_000,
    b'{"v": 1, "scenario_id": ' + b"9" * 10_000 + b"}",
]


def test_poison_is_put_aside_and_the_rest_is_used(database: Database) -> None:
    received = [
        Received("scenarios", 0, offset, 1_700_000_000_000, None, payload)
        for offset, payload in enumerate([*POISON, b'{"v": 1, "scenario_id": 42, "new": 1}'])
    ]
    assert scenario_ids(database, received) == [42]
    assert scenario_ids(database, received) == [42]  # received again: nothing is kept twice
    with database.begin() as connection:
        kept = dead_letters.find(connection, limit=100)
    assert [one.payload for one in kept] == POISON[::-1]
    assert all(one.error and "\n" not in one.error for one in kept)
