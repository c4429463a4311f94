"""`vidan dead`: one listing of unreadable messages and failed scenarios; messages are resent."""

from __future__ import annotations

import os
import pty
import subprocess
import time

import pytest
from confluent_kafka import Consumer

from tests.support.kafka import HostedBroker
from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.shell import Shell
from vidan import inbox
from vidan.broker import connect
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.services import dead_letters
from vidan.services.dead_letters import NewLetter


def letter(database: Database, offset: int, **changes: object) -> int:
    """Enter a dead letter; its id."""
    given = {
        "topic": "scenarios", "partition": 2, "offset": offset, "timestamp_ms": 1000,
        "key": b"7", "payload": b"garbage\xff", "error": "not JSON", **changes,
    }  # fmt: skip
    with database.begin() as connection:
        assert dead_letters.add(connection, [NewLetter(**given)])  # type: ignore[arg-type]
        return dead_letters.find(connection, limit=1)[0].id


def age(database: Database, letter_id: int, days: int) -> None:
    from sqlalchemy import text

    with database.begin() as connection:
        connection.execute(
            text(
                "UPDATE dead_letters SET received_at = now() - make_interval(days => :days)"
                " WHERE id = :id"
            ),
            {"days": days, "id": letter_id},
        )


def fail(vidan: Shell, worker: PlayedWorker) -> int:
    """A scenario that has failed; its id."""
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    scenario_id = worker.claim()
    worker.end(Status.FAILED, "unreadable")
    return scenario_id


@pytest.fixture
def mixed(vidan: Shell, worker: PlayedWorker, database: Database) -> tuple[int, int, int]:
    """A letter, then a failed scenario, then a letter."""
    first = letter(database, 1)
    failed = fail(vidan, worker)
    return first, failed, letter(database, 2)


# --- list


def test_messages_and_failed_scenarios_are_one_listing(
    vidan: Shell, mixed: tuple[int, int, int]
) -> None:
    first, failed, second = mixed
    ended = vidan("dead", "list")
    rows = [line.split("\t") for line in ended.out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [
        (str(second), "message"),
        (str(failed), "scenario"),
        (str(first), "message"),
    ]
    assert [row[2] for row in rows] == ["scenarios/2@2", "detect /v/a.mp4", "scenarios/2@1"]
    assert [row[4] for row in rows] == ["not JSON", "unreadable", "not JSON"]
    assert f"vidan scenario retry {failed}" in ended.err
    assert f"vidan dead replay {second}" in ended.err
    assert len(vidan("dead", "list", "--limit", 2).out.splitlines()) == 2


def test_the_listing_as_json_and_narrowed(vidan: Shell, mixed: tuple[int, int, int]) -> None:
    first, failed, second = mixed
    records = vidan("dead", "list", "--json").json()
    assert [record["kind"] for record in records] == ["message", "scenario", "message"]
    assert records[0]["payload"] == "garbage\\xff"
    assert records[0]["offset"] == 2
    assert (records[1]["status"], records[1]["source"]) == ("failed", "/v/a.mp4")
    assert [r["error"] for r in records] == ["not JSON", "unreadable", "not JSON"]
    only = vidan("dead", "list", "--json", "--kind", "scenario").json()
    assert [record["id"] for record in only] == [failed]
    only = vidan("dead", "list", "--json", "--kind", "message").json()
    assert [record["id"] for record in only] == [second, first]
    assert vidan("dead", "show", first, "--json").json()["kind"] == "message"


def test_quiet_prints_what_replay_takes(vidan: Shell, mixed: tuple[int, int, int]) -> None:
    first, failed, second = mixed
    assert vidan("dead", "list", "-q").out == f"{second}\n{first}\n"
    assert vidan("dead", "list", "-q", "--kind", "scenario").out == f"{failed}\n"
    assert vidan("dead", "list", "-q").err == ""


# --- replay


@pytest.fixture
def on_broker(vidan: Shell, embedded_broker: HostedBroker) -> Shell:
    vidan.environment["KAFKA_BOOTSTRAP_SERVERS"] = embedded_broker.bootstrap_servers
    return vidan


def received(broker: HostedBroker, topic: str, count: int) -> list[tuple[bytes | None, ...]]:
    """The last messages of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": f"look-{time.monotonic()}",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    found: list[tuple[bytes | None, ...]] = []
    try:
        assert eventually(lambda: _take(consumer, found) >= count, 30), found
    finally:
        consumer.close()
    return found


def _take(consumer: Consumer, found: list[tuple[bytes | None, ...]]) -> int:
    found += [(one.key(), one.value()) for one in consumer.consume(10, 0.5) if not one.error()]
    return len(found)


def test_a_letter_is_sent_again_as_it_came_and_removed(
    on_broker: Shell, database: Database, embedded_broker: HostedBroker
) -> None:
    topic = f"replay-{time.monotonic_ns()}"
    one = letter(database, 1, topic=topic)
    empty = letter(database, 2, topic=topic, key=None, payload=None)
    good = letter(database, 3, topic=topic, payload=b'{"v": 1, "scenario_id": 7}')
    other = letter(database, 4)

    ended = on_broker("dead", "replay", one, empty, good)

    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [f"{found}\t{topic}" for found in (one, empty, good)]
    assert "3 sent again" in ended.err
    assert "this version can't read 2 of them" in ended.err
    assert set(received(embedded_broker, topic, 3)) == {
        (b"7", b"garbage\xff"),
        (None, None),
        (b"7", b'{"v": 1, "scenario_id": 7}'),
    }
    assert on_broker("dead", "list", "-q").out == f"{other}\n"


def test_all_of_a_topic_and_unknown_ids(on_broker: Shell, database: Database) -> None:
    topic = f"replay-{time.monotonic_ns()}"
    ids = [letter(database, offset, topic=topic) for offset in range(230)]  # more than a batch
    other = letter(database, 1)
    assert on_broker("dead", "replay", "--all", "--topic", "nothing").code == 0
    ended = on_broker("dead", "replay", "--all", "--topic", topic, "-q")
    assert ended.code == 0
    assert sorted(map(int, ended.out.split())) == ids
    assert on_broker("dead", "list", "-q").out == f"{other}\n"

    assert on_broker("dead", "replay", ids[0]).code == 3
    ended = on_broker("dead", "replay", ids[0], other, "--json")
    assert ended.code == 3
    assert [record["id"] for record in [ended.json()]] == [other]
    assert f"no dead letter {ids[0]}" in ended.err


def test_a_broker_that_is_away_is_9_and_loses_nothing(vidan: Shell, database: Database) -> None:
    one = letter(database, 1)
    for servers in (["--bootstrap-servers", "127.0.0.1:1"], []):
        ended = vidan("dead", "replay", one, "--json", *servers)
        assert (ended.code, ended.out) == (9, "")
        assert ended.error()["hint"]
    assert vidan("dead", "list", "-q").out == f"{one}\n"


def test_what_is_not_delivered_is_kept(on_broker: Shell, database: Database) -> None:
    topic = f"replay-{time.monotonic_ns()}"
    big = letter(database, 1, topic=topic, payload=b"x" * 3_000_000)  # more than a client sends
    small = letter(database, 2, topic=topic)
    ended = on_broker("dead", "replay", big, small)
    assert ended.code == 9
    assert ended.out == f"{small}\t{topic}\n"
    assert "1 could not be delivered, and is kept" in ended.err
    assert on_broker("dead", "list", "-q").out == f"{big}\n"


def test_what_can_not_be_used_comes_back_as_a_new_letter(
    database: Database, embedded_broker: HostedBroker, on_broker: Shell
) -> None:
    topic = f"replay-{time.monotonic_ns()}"
    one = letter(database, 1, topic=topic)
    broker = connect(
        Settings(
            home=on_broker.folder, kafka={"bootstrap.servers": embedded_broker.bootstrap_servers}
        )
    )
    producer, consumer = broker.producer(), broker.consumer(f"group-{topic}", [topic])
    try:
        with database.begin() as connection:
            found = dead_letters.get(connection, one)
        assert inbox.send_again(database, producer, [found]) == [found]
        assert eventually(lambda: _receives(database, consumer), 30)
    finally:
        producer.close()
        consumer.close()
    (back,) = _letters(database)
    assert (back.id, back.payload) == (one + 1, found.payload)


def _receives(database: Database, consumer: object) -> bool:
    inbox.scenario_ids(database, consumer.poll(0.5))  # type: ignore[attr-defined]
    return _letters(database) != []


def _letters(database: Database) -> list[dead_letters.DeadLetter]:
    with database.begin() as connection:
        return dead_letters.find(connection)


# --- purge


def test_purge_deletes_what_is_named(vidan: Shell, database: Database) -> None:
    ids = [letter(database, offset) for offset in range(4)]
    ended = vidan("dead", "purge", ids[0], ids[2], 99, "--yes")
    assert ended.code == 3
    assert ended.out == f"{ids[0]}\n{ids[2]}\n"
    assert "2 deleted" in ended.err
    assert vidan("dead", "list", "-q").out == f"{ids[3]}\n{ids[1]}\n"
    assert vidan("dead", "purge", 99, "--yes").code == 3


def test_purge_of_all_by_age_and_topic(vidan: Shell, database: Database) -> None:
    old, new = letter(database, 1), letter(database, 2)
    other = letter(database, 3, topic="retry_topic")
    for one in (old, other):
        age(database, one, days=40)

    def purged(*words: object) -> list[int]:
        ended = vidan("dead", "purge", "--all", "--yes", "--json", *words)
        assert ended.code == 0
        import json

        return [json.loads(line)["id"] for line in ended.out.splitlines()]

    assert purged("--before", "41d") == []
    assert purged("--before", "1999-01-01") == []
    assert purged("--topic", "scenarios", "--before", "30d") == [old]
    assert purged("--topic", "\udcff") == []
    assert purged("--before", "2999-01-01T00:00+00:00", "--topic", "retry_topic") == [other]
    assert purged() == [new]


def test_a_script_has_to_say_yes(vidan: Shell, database: Database) -> None:
    one = letter(database, 1)
    for words in ([one], ["--all"]):
        ended = vidan.run("dead", "purge", *words)
        assert (ended.code, ended.out) == (2, "")
        assert "--yes" in ended.err
    assert vidan("dead", "list", "-q").out == f"{one}\n"


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_a_terminal_is_asked(vidan: Shell, database: Database, answer: str, code: int) -> None:
    one = letter(database, 1)
    here, there = pty.openpty()
    process = subprocess.Popen(
        vidan.command("dead", "purge", one),
        stdin=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=vidan.environment, cwd=vidan.folder,
    )  # fmt: skip
    os.close(there)
    os.write(here, f"{answer}\n".encode())
    out, err = process.communicate(timeout=30)
    os.close(here)
    assert "Delete 1 dead letter permanently?" in err
    assert process.returncode == code, err
    assert out == (f"{one}\n" if answer == "y" else "")
    assert vidan("dead", "list", "-q").out == ("" if answer == "y" else f"{one}\n")
