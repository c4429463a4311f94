"""Connections that give up a server which does not answer.

The server's time-outs end a statement as long as the server works, and keepalives find a host that
is gone. Neither helps against a frozen server or a proxy that drops what it should forward: the
kernels still acknowledge every byte, and libpq would wait forever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

T = TypeVar("T")

SILENCE_SECONDS = 6.0
"""Silence, in seconds, after which a server is given up: its own time-outs end a statement
earlier."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that closes itself, with an OperationalError, after a silence.

    `on_silence` is called first, with the id of the server's process, which may still hold the
    locks of the transaction.
    """

    on_silence: Callable[[int], None] = staticmethod(lambda _: None)

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """Wait as psycopg does, which wakes ten times a second, but no longer than the silence."""
        try:
            return super().wait(self._bounded(gen), *args, **options)
        except (KeyboardInterrupt, SystemExit):
            # The exception was raised inside `_bounded` and ended `gen`. psycopg has cancelled the
            # statement, but nothing reads the answer.
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    self._give_up()
                wanted = gen.send(ready)
        except StopIteration as end:
            found: T = end.value
            return found

    def _give_up(self) -> None:
        self.on_silence(self.pgconn.backend_pid)
        self.close()
        raise psycopg.OperationalError(f"the server has not answered for {SILENCE_SECONDS:.0f} s")
