"""A PgBouncer before the tests' PostgreSQL: the package `pgbouncer` of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from vidan.stack import account as accounts
from vidan.stack.orphans import dies_with_parent
from vidan.stack.postgres import PORT, PostgresServer

POOLER_PORT = 6432
MODES = ("transaction", "session")
INSTALL = "tests behind a pooler need PgBouncer; fix it with: apt-get install pgbouncer"

SETTINGS = """\
[databases]
* = host={server} port={server_port} user=vidan
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = {port}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""


class Pooler:
    """A PgBouncer in one mode, with few sessions of the server for all clients together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, direct: str) -> str:
        """Return the URL through the pooler of the database that `direct` names."""
        begin, _, _ = direct.partition("?")
        return f"{begin}?host={quote(str(self._folder), safe='')}&port={POOLER_PORT}"


@contextmanager
def pooled(server: PostgresServer, mode: str, *, size: int) -> Iterator[Pooler]:
    """Run a PgBouncer before the server, for the block. Fails the test if it is not installed."""
    program = shutil.which(
        "pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        pytest.fail(INSTALL)
    folder = Path(tempfile.mkdtemp(prefix="vidan-pooler-", dir="/tmp"))
    identity = {}
    if os.geteuid() == 0:  # it refuses to run as root, and may enter the socket's folder
        account = accounts.unprivileged_account()
        os.chown(folder, account.uid, account.gid)
        identity = {"user": account.uid, "group": account.gid}
    file = folder / "pgbouncer.ini"
    socket = Path(str(psycopg.conninfo.conninfo_to_dict(server.url)["host"]))
    file.write_text(
        SETTINGS.format(
            server=socket, server_port=PORT, folder=folder, port=POOLER_PORT, mode=mode, size=size
        )
    )
    file.chmod(0o644)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [program, str(file)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=dies_with_parent(),  # noqa: PLW1509  # one C call
            **identity,  # type: ignore[call-overload]
        )
    try:
        _wait(process, folder)
        yield Pooler(folder)
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not (folder / f".s.PGSQL.{POOLER_PORT}").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"PgBouncer did not start: {(folder / 'log').read_text()}")
        time.sleep(0.02)


@pytest.fixture(params=MODES)
def pooler_mode(request: pytest.FixtureRequest) -> str:
    """Each mode in which callers may pass a pooler."""
    mode: str = request.param
    return mode


@pytest.fixture
def pooler(postgres: PostgresServer, pooler_mode: str) -> Iterator[Pooler]:
    """A pooler of this mode. In transaction mode all clients share one session of the server."""
    with pooled(postgres, pooler_mode, size=1 if pooler_mode == "transaction" else 20) as made:
        yield made
