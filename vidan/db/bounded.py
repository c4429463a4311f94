"""Connections that give up a server which says nothing.

The server's own time-outs end a statement while the server is well, keepalives find a host that is
gone. Neither helps against a server that is frozen, or a proxy that swallows what it should pass
on: the kernels still acknowledge every byte, and libpq would wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

T = TypeVar("T")

SILENCE_SECONDS = 6.0
"""A server that says nothing for so long is lost: its own time-outs would have spoken by then."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that closes itself, with an OperationalError, after a silence.

    `on_silence` is called with the number of the server's process before that: it may still hold
    what the transaction had locked.
    """

    on_silence: Callable[[int], None] = staticmethod(lambda _: None)

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """Wait as psycopg does, which wakes ten times a second, but not through a silence."""
        try:
            return super().wait(self._bounded(gen), *args, **options)
        except (KeyboardInterrupt, SystemExit):
            # raised in `_bounded`, it ended `gen`: psycopg has cancelled, but reads no answer
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
        raise psycopg.OperationalError(f"the server has said nothing for {SILENCE_SECONDS:.0f} s")
