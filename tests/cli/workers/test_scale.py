"""`vidan workers scale`: what it prints, and the exit codes. Processes: test_scaling.py."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.db.session import Database
from vidan.domain.status import DesiredState
from vidan.protocol import heartbeats
from vidan.services import workers


def listed(vidan: Shell) -> dict[str, tuple[int, int | None]]:
    found: list[dict[str, Any]] = vidan("workers", "list", "--json").json()
    return {one["name"]: (one["slots"], one["desired_slots"]) for one in found}


def test_the_wanted_number_is_shown_while_it_differs(vidan: Shell, database: Database) -> None:
    worker = PlayedWorker(database, "a")
    assert listed(vidan) == {"a": (1, None)}
    ended = vidan("workers", "scale", "a", "3")
    assert (ended.code, ended.out) == (0, "a\t1 → 3\n")
    assert "worker a will have 3 slots" in ended.err
    assert listed(vidan) == {"a": (1, 3)}
    assert vidan("workers", "list").out.split("\t")[3] == "1 → 3"
    shown = vidan("workers", "show", "a").out.splitlines()
    assert {"slots\t1", "desired_slots\t3"} <= set(shown)
    with database.begin() as connection:
        assert heartbeats.beat(connection, worker.id, state="idle", fps=0, count=False, slots=3)
    assert listed(vidan) == {"a": (3, 3)}
    assert vidan("workers", "list").out.split("\t")[3] == "3"


def test_names_ids_and_all_of_a_name(vidan: Shell, database: Database) -> None:
    *_, other = (PlayedWorker(database, name) for name in "aab")
    assert vidan("workers", "scale", "a", other.id, 2, "-q").out.split() == [
        *vidan("workers", "list", "-q").out.split()
    ]
    record = vidan("worker", "scale", other.id, 4, "--json").json()
    assert (record["id"], record["slots"], record["desired_slots"]) == (str(other.id), 1, 4)
    assert "already requested" in vidan("workers", "scale", "b", 4).err
    assert "already requested" not in vidan("workers", "scale", "b", 5).err


@pytest.mark.parametrize("wrong", ["0", "65", "-1", "many", "1.5", ""])
def test_a_wrong_number_is_a_mistake_of_use(vidan: Shell, database: Database, wrong: str) -> None:
    PlayedWorker(database, "a")
    ended = vidan("workers", "scale", "a", wrong)
    assert (ended.code, ended.out) == (2, "")
    assert listed(vidan) == {"a": (1, None)}


def test_a_name_or_the_number_is_missing(vidan: Shell, database: Database) -> None:
    PlayedWorker(database, "a")
    for words in ([], ["a"], ["4"]):
        assert vidan("workers", "scale", *words).code == 2


def test_who_is_not_there_or_leaving(vidan: Shell, database: Database) -> None:
    gone, leaving, _ = (PlayedWorker(database, name) for name in ("gone", "leaving", "here"))
    gone.let_lease_end()
    with database.begin() as connection:
        workers.retire(connection, [leaving.name], DesiredState.DRAINED)
    assert vidan("workers", "scale", "nobody", 2).code == 3
    ended = vidan("workers", "scale", "gone", 2, "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "has been gone since" in ended.error()["error"]
    ended = vidan("workers", "scale", "leaving", 2, "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "is leaving" in ended.error()["error"]
    assert "vidan worker" in ended.error()["hint"]
    ended = vidan("workers", "scale", "nobody", "here", "leaving", 2)
    assert (ended.code, ended.out) == (3, "here\t1 → 2\n")
    assert "nobody" in ended.err and "is leaving" in ended.err


def test_the_process_that_tries_suspects_keeps_its_slot(vidan: Shell, database: Database) -> None:
    PlayedWorker(database, "a-quarantine")
    with database.begin() as connection:
        connection.execute(text("UPDATE workers SET quarantine = true"))
    ended = vidan("workers", "scale", "a-quarantine", 2)
    assert (ended.code, ended.out) == (4, "")
    assert "one at a time" in ended.err
