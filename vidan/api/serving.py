"""`vidan api`: its sockets, its log, and the server that runs the application."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from types import FrameType

import uvicorn

from vidan import logs
from vidan.api import application
from vidan.api.bounded_log import BoundedLog
from vidan.api.connections import SPARE_FILES, BoundedConnection
from vidan.api.guard import VARIABLE, is_loopback
from vidan.config import Settings
from vidan.errors import UsageError, VidanError

STOP_SECONDS = 5
"""Time, in seconds, that running requests get to end after a signal to stop."""

LAST_SECONDS = STOP_SECONDS + 3
"""Time, in seconds after a signal to stop, after which the process ends whatever it still does."""

WAITING = 2048
"""Most connections that wait in the system's queue to be accepted."""

ACCEPTED = SPARE_FILES // 8
"""Most connections that are accepted in one turn of the event loop. One that is too many is closed
some turns later. So open files are always left: without them asyncio logs errors without end."""

DEAD_SECONDS = 30
"""Time, in seconds, after which a connection ends whose client's host does not acknowledge."""

_LOOK_SECONDS = 0.2
"""Time, in seconds, between two looks for a signal to stop."""

Address = tuple[socket.AddressFamily, str]
"""An address family, and an IP address of that family."""

log = logging.getLogger(__name__)


def serve(settings: Settings, host: str, port: int) -> int:
    """Listen on all addresses of `host`, and serve until SIGINT or SIGTERM; return the exit code.

    The signal is then passed to the caller's handler; the process ends at the latest LAST_SECONDS
    after it. Raises what `vidan.api.serve` raises.
    """
    addresses = _addresses(host, port)
    if settings.api_token is None and not all(is_loopback(ip) for _, ip in addresses):
        raise UsageError(
            f"other machines can reach {host}, and {VARIABLE} is not set",
            hint=f"set {VARIABLE} to a long random word that clients send as bearer token, "
            "or listen on 127.0.0.1",
        )
    database = application.open_database(settings)
    try:
        app = application.build(settings, database)
        sockets = _listen(addresses, host, port)
        logs.configure(settings, "api")
        bounded = BoundedLog()
        for handler in logging.getLogger().handlers:
            handler.addFilter(bounded)
        server = uvicorn.Config(
            app,
            http=BoundedConnection,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
            backlog=ACCEPTED,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # no line for each step
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sockets[0].getsockname()[1]}"
        log.info("listening on %s, described at %s/docs", address, address)
        _Server(server, bounded).run(sockets=sockets)
    finally:
        database.close()
    return 0


class _Server(uvicorn.Server):
    """A server whose process ends after a signal to stop, even if a request never does.

    The threads in which requests run can't be ended, and the interpreter waits for them.
    """

    signal: int | None = None

    def __init__(self, config: uvicorn.Config, bounded: BoundedLog) -> None:
        super().__init__(config)
        self._bounded = bounded

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; further ones wait in the system's queue, which may be long."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(WAITING)

    async def on_tick(self, counter: int) -> bool:
        """Do what is due ten times a second."""
        self._bounded.tell()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal, and stop as uvicorn does."""
        self.signal = sig
        super().handle_exit(sig, frame)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal to stop."""
        threading.Thread(target=self._end_at_last, name="end at last", daemon=True).start()
        super().run(sockets)

    def _end_at_last(self) -> None:
        while self.signal is None:
            time.sleep(_LOOK_SECONDS)
        time.sleep(LAST_SECONDS)
        log.error("a request did not end in %d s: the process ends without it", LAST_SECONDS)
        os._exit(128 + self.signal)


def _find_dead_clients(listening: socket.socket) -> None:
    """Let the system end connections, inherited by this socket, whose client's host is gone."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 15),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, DEAD_SECONDS * 1000),
    ):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


def _addresses(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, each with its family. Raises UsageError."""
    try:
        if not host:
            raise OSError
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"no such host: {host!r}", hint="use --host 127.0.0.1") from None
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _listen(addresses: list[Address], host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address. Raises VidanError if there can be none."""
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, ip in addresses:
        try:
            opened = socket.create_server((ip, port), family=family, backlog=WAITING)
            # Connections inherit it. Without it each answer on a kept connection waits 40 ms for
            # the client to acknowledge its headers.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _find_dead_clients(opened)
            sockets.append(opened)
        except OSError as error:
            problem = error
            # EADDRNOTAVAIL: this machine does not use the address family, perhaps the next one
            if error.errno != errno.EADDRNOTAVAIL:
                break
    if sockets and (problem is None or problem.errno == errno.EADDRNOTAVAIL):
        return sockets
    for opened in sockets:
        opened.close()
    why = os.strerror(problem.errno).lower() if problem and problem.errno else "no address"
    raise VidanError(f"can't listen on {host}, port {port}: {why}", hint="choose another --port")
