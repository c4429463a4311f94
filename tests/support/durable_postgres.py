"""A PostgreSQL that keeps committed data, and that a test may stop, restart and freeze."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil

from tests.support.databases import create_database, temporary_server
from vidan.stack.postgres import PORT, PostgresServer

# Only a power cut needs fsync: what a killed server has written, the kernel still writes out
DURABLE = {"synchronous_commit": "on", "fsync": "off", "autovacuum_naptime": "1h"}

SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""The ways to stop it: `fast` ends its sessions in order, `immediate` needs recovery later."""


class DurablePostgres(PostgresServer):
    """A server that keeps its address over restarts. `options` override those of the stack."""

    def __init__(self, folder: Path, options: Mapping[str, str] = DURABLE) -> None:
        super().__init__(folder / "postgres", folder / "postgres.log", options)

    @property
    def socket(self) -> str:
        """The path of its socket."""
        (folder,) = parse_qs(urlsplit(self.url).query)["host"]
        return f"{folder}/.s.PGSQL.{PORT}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database, and return its URL."""
        return create_database(self, name, template)

    def go(self, how: str = "fast") -> None:
        """Stop the server in this way, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(SIGNALS[how])
        self._process.wait(30)
        self._process = None

    def restart(self, how: str = "fast", away: float = 0.0) -> float:
        """Stop the server and start it `away` seconds later.

        Returns the time (monotonic) at which it accepted connections.
        """
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


def durable_postgres(
    options: Mapping[str, str] = DURABLE,
) -> AbstractContextManager[DurablePostgres]:
    """Run a server in a temporary folder, for the block."""
    return temporary_server(lambda folder: DurablePostgres(folder, options))
