"""Scenarios as their users see them: found, listed, their history, their JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.support.scenarios import get, in_status
from vidan.db.session import Database
from vidan.domain.bounds import MAX_ID
from vidan.domain.status import Status
from vidan.errors import NotFoundError
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import predictions, scenarios, steering


def test_find_filters_and_pages(database: Database) -> None:
    with database.begin() as connection:
        ids = [
            one.id
            for one in creation.create_many(
                connection,
                [
                    NewScenario(
                        source="/a.mp4",
                        labels={"parity": str(n % 2), "all": "x"},
                        status=Status.INACTIVE if n >= 6 else Status.INIT_STARTUP,
                    )
                    for n in range(8)
                ],
            )
        ]

        def found(**filters: Any) -> list[int]:
            return [one.id for one in scenarios.find(connection, **filters)]

        assert found() == ids[::-1]
        assert found(newest_first=False, limit=3) == ids[:3]
        assert found(newest_first=False, limit=3, after_id=ids[2]) == ids[3:6]
        assert found(limit=2, after_id=ids[5]) == [ids[4], ids[3]]
        assert found(status=[Status.INACTIVE]) == [ids[7], ids[6]]
        assert found(status=[]) == []
        assert found(status=[*Status, *Status]) == ids[::-1]
        assert found(status=list(Status), newest_first=False) == ids
        both = [Status.INACTIVE, Status.INIT_STARTUP]
        assert found(status=both, limit=3, after_id=ids[7]) == ids[6:3:-1]
        assert found(status=both, limit=3, after_id=ids[4], newest_first=False) == ids[5:]
        assert found(status=both, ids=ids[1:7:5], task="detect") == [ids[6], ids[1]]
        assert found(status=both, after_id=2**80) == ids[::-1]
        assert found(status=both, after_id=2**80, newest_first=False) == []
        assert found(status=both, after_id=-(2**80), newest_first=False) == ids
        assert found(status=both, after_id=0) == []
        assert found(labels={"parity": "1", "all": "x"}, newest_first=False) == ids[1::2]
        assert found(labels={"parity": "1"}, status=[Status.INACTIVE]) == [ids[7]]
        assert found(labels={"parity": "2"}) == []
        assert found(task="detect", ids=[ids[0], MAX_ID, 2**80, 0, -1]) == [ids[0]]
        assert found(task="x' OR true --") == []
        assert found(task="\x00") == found(labels={"\ud800": ""}) == []
        assert found(after_id=2**80) == ids[::-1]
        assert found(limit=2**80) == ids[::-1]
        assert found(limit=0) == found(limit=-1) == []


@pytest.mark.parametrize("scenario_id", [0, -1, 999, MAX_ID, MAX_ID + 1, 2**80])
def test_an_id_that_no_scenario_has_is_not_found(database: Database, scenario_id: int) -> None:
    asked: list[Callable[[Connection], object]] = [
        lambda c: scenarios.get(c, scenario_id),
        lambda c: scenarios.history(c, scenario_id),
        lambda c: steering.start(c, scenario_id),
        lambda c: steering.stop(c, scenario_id),
        lambda c: steering.retry(c, scenario_id),
        lambda c: steering.delete(c, scenario_id),
        lambda c: predictions.read_after(c, scenario_id, -1),
        lambda c: predictions.summary(c, scenario_id),
    ]
    with database.begin() as connection:
        assert scenarios.gaps(connection, scenario_id) == []
        for ask in asked:
            with pytest.raises(NotFoundError, match=f"no scenario {scenario_id}"):
                ask(connection)


def test_history_tells_every_change_in_order(database: Database) -> None:
    scenario_id = in_status(database, Status.FAILED)
    with database.begin() as connection:
        history = scenarios.history(connection, scenario_id)
    assert [one.to_status for one in history] == [
        Status.INIT_STARTUP,
        Status.INIT_STARTUP_PROCESSING,
        Status.ACTIVE,
        Status.FAILED,
    ]
    assert [one.from_status for one in history] == [None, *(one.to_status for one in history[:-1])]
    assert (history[-1].reason, history[-1].actor) == ("it broke", "cpu-0@test")
    assert history[-1].as_json()["from"] == "active"
    assert all(one.at.tzinfo is not None for one in history)


def test_as_json_has_the_keys_that_scripts_rely_on(database: Database) -> None:
    found = get(database, in_status(database, Status.ACTIVE)).as_json()
    assert (
        list(found)
        == (
            "id name key labels task source params queue priority status frames_done frames_total"
            " lost_frames attempts crashes worker result error created_at started_at ended_at"
            " pruned time_limit soft_time_limit parent_id"
            " source_info notes retries max_retries retries_left due_at next_try_at"
            " queue_position waited_seconds ran_seconds"
        ).split()
    )
    assert (found["worker"], found["status"]) == ("cpu-0@test", "active")
    assert datetime.fromisoformat(found["started_at"]).tzinfo is not None
    assert found["ended_at"] is None


def asked(scenario_id: int, wanted: Status, connection: Connection) -> bool:
    return steering.request(connection, scenario_id, wanted)
