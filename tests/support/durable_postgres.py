"""A PostgreSQL that keeps commits over a restart, and that a test may stop, restart and freeze."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
from psycopg import sql

from tests.support.folders import new_folder
from vidan.config import plain_url
from vidan.stack.postgres import PORT, PostgresServer

# fsync is for power cuts alone: a server that is killed keeps what it has given to the kernel
DURABLE = {"synchronous_commit": "on", "fsync": "off", "autovacuum_naptime": "1h"}

SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""How the server may be stopped: sessions are ended in order, or dropped, and recovery follows."""


class DurablePostgres(PostgresServer):
    """A server whose address stays the same over restarts; `options` over those of the stack's."""

    def __init__(self, folder: Path, options: Mapping[str, str] = DURABLE) -> None:
        super().__init__(folder / "postgres", folder / "postgres.log", options)

    @property
    def socket(self) -> str:
        """The path of its socket."""
        (folder,) = parse_qs(urlsplit(self.url).query)["host"]
        return f"{folder}/.s.PGSQL.{PORT}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database, and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return plain_url(self.url).replace("@/vidan?", f"@/{name}?")

    def go(self, how: str = "fast") -> None:
        """Stop it in this way, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(SIGNALS[how])
        self._process.wait(30)
        self._process = None

    def restart(self, how: str = "fast", away: float = 0.0) -> float:
        """Stop it, start it after a while; returns when (monotonic) it accepted connections."""
        self.go(how)
        time.sleep(away)
        self.start()
        return time.monotonic()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes (SIGSTOP) for the block: connections stay, nothing answers."""
        assert self.pid is not None
        processes = [self.pid, *(one.pid for one in psutil.Process(self.pid).children())]
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@contextmanager
def durable_postgres(options: Mapping[str, str] = DURABLE) -> Iterator[DurablePostgres]:
    """A server in a temporary folder, for the block."""
    folder = new_folder()
    server = DurablePostgres(folder, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
