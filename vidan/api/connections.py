"""Connections of clients: how many there may be, and how long one may take to ask and to read."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import resource
import struct
import termios

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1_000
"""Most connections at once. One that is opened beyond them is closed at once."""

SPARE_FILES = 64
"""Open files, of those that the system allows, that are kept for all but connections."""

HEADER_SECONDS = 10.0
"""Longest time, in seconds, until the headers of a request have come."""

READ_SECONDS = 30.0
"""Time, in seconds, in which a client that is sent an answer has to take LEAST_READ bytes of it."""

LEAST_READ = 32 * 1024
"""Least that a client has to take of an answer in READ_SECONDS, in bytes."""

ALL_ANSWERS = 256 * 2**20
"""Most bytes of answers that clients have not taken yet, of all connections together."""

log = logging.getLogger(__name__)


class BoundedConnection(H11Protocol):
    """A connection that is closed if its client asks too slowly, or does not read the answer."""

    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _unread: float = math.inf
    """Bytes of the answer that were unread at the last look, if none were added since then."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or close it if there are too many."""
        super().connection_made(transport)
        most = most_connections()
        if len(self.connections) > most:
            self._close(logging.WARNING, f"there are {most} connections, which is the most")
        else:
            self._await_headers()
            self._reading = self.loop.call_later(READ_SECONDS, self._look)

    def data_received(self, data: bytes) -> None:
        """Read what came; the time for headers runs until a request is complete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._await_headers()

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as it is answered."""
        super().pause_writing()
        self._unread = math.inf
        total = sum(one.transport.get_write_buffer_size() for one in self.connections)
        if total > ALL_ANSWERS:
            self._close(logging.WARNING, f"clients have not read {total} bytes of their answers")

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self._unread = math.inf
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._late)

    def _late(self) -> None:
        self._close(logging.INFO, f"no request came in {HEADER_SECONDS:g} s")

    def _look(self) -> None:
        """Look whether the client reads: this comes every READ_SECONDS.

        While writing is paused nothing is added, so what is unread has to shrink. The same holds
        when the connection ends and only the rest of the answer is awaited.
        """
        unread = _unread(self.transport)
        if unread and (self.flow.write_paused or self.transport.is_closing()):
            if unread > self._unread - LEAST_READ:
                self._close(logging.INFO, f"the client did not read in {READ_SECONDS:g} s")
                return
            self._unread = unread
        self._reading = self.loop.call_later(READ_SECONDS, self._look)

    def _close(self, level: int, why: str) -> None:
        host = self.client[0] if self.client else "a client"
        # each reason is a place of its own, whose lines are counted by themselves
        log.log(level, "the connection of %s is closed: %s", host, why, stacklevel=2)
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def most_connections() -> int:
    """Return how many connections there may be, so that files remain for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - SPARE_FILES
    return max(1, min(MAX_CONNECTIONS, files))


def _unread(transport: asyncio.Transport) -> int:
    """Return how many bytes wait to be sent, or for the acknowledgement of the client's host."""
    own = transport.get_write_buffer_size()
    sent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return own + int(struct.unpack("i", sent)[0])
