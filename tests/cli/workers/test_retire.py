"""`vidan workers drain|stop`: what they print, and the exit codes. Processes: test_retiring.py."""

from __future__ import annotations

import threading
from uuid import UUID

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.shell import Shell
from vidan.db.session import Database
from vidan.protocol import heartbeats


def sign_off(database: Database, worker_id: UUID) -> None:
    with database.begin() as connection:
        heartbeats.sign_off(connection, worker_id)


def test_a_name_an_id_and_all(vidan: Shell, database: Database) -> None:
    first, second, third = (PlayedWorker(database, name) for name in "aab")
    ended = vidan("workers", "drain", "a")
    assert (ended.code, ended.out) == (0, "a\tdraining\na\tdraining\n")
    assert "takes no new scenarios" in ended.err
    assert {line.split("\t")[1] for line in vidan("workers", "list").out.splitlines()} == {
        "draining",
        "idle",
    }
    (record,) = [vidan("workers", "stop", third.id, "--json").json()]
    assert (record["id"], record["desired_state"]) == (str(third.id), "stopped")
    assert set(vidan("worker", "drain", "--all", "-q").out.split()) == {
        str(one.id) for one in (first, second, third)
    }


def test_what_is_asked_already_is_no_error(vidan: Shell, database: Database) -> None:
    PlayedWorker(database, "a")
    for command, said in (
        ("drain", ""),
        ("drain", "already"),
        ("stop", "requeues its running scenarios"),
    ):
        ended = vidan("workers", command, "a")
        assert ended.code == 0
        assert said in ended.err
    assert (
        "requeues its running scenarios and ends (already requested)"
        in vidan("workers", "drain", "a").err
    )


def test_who_is_not_there(vidan: Shell, database: Database) -> None:
    gone, _ = PlayedWorker(database, "gone"), PlayedWorker(database, "here")
    gone.let_lease_end()
    ended = vidan("workers", "drain", "gone", "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "workers list" in ended.error()["hint"]
    assert vidan("workers", "drain", "nobody").code == 3
    ended = vidan("workers", "drain", "nobody", "here", "gone")
    assert (ended.code, ended.out) == (3, "here\tdraining\n")
    assert "nobody" in ended.err and "gone has been gone" not in ended.out


def test_of_none_all_are_none(vidan: Shell) -> None:
    ended = vidan("workers", "stop", "--all", "--wait")
    assert (ended.code, ended.out) == (0, "")
    assert "no worker is running" in ended.err


def test_waiting_until_they_have_left(vidan: Shell, database: Database) -> None:
    worker = PlayedWorker(database, "a")
    ended = vidan("workers", "drain", "a", "--wait", "--timeout", "0.2")
    assert (ended.code, ended.out) == (7, "a\tdraining\n")
    assert "a still running" in ended.err

    leaving = threading.Timer(0.3, sign_off, (database, worker.id))
    leaving.start()
    ended = vidan("workers", "stop", "a", "--wait", "--timeout", "20")
    leaving.join()
    assert ended.code == 0
    assert "all have ended" in ended.err


def test_waiting_follows_the_process_to_its_next_registration(
    vidan: Shell, database: Database
) -> None:
    first = PlayedWorker(database, "a")
    waiting = vidan.start("workers", "drain", "a", "--wait")
    assert waiting.stdout is not None and waiting.stderr is not None
    assert waiting.stdout.readline() == "a\tdraining\n"
    second = PlayedWorker(database, "a")  # the same process, under another id
    first.let_lease_end()
    assert not eventually(lambda: waiting.poll() is not None, 1.5)
    sign_off(database, second.id)
    assert waiting.wait(20) == 0
    waiting.communicate()
