"""`vidan api`: its sockets, its log, and the server that runs the application."""

from __future__ import annotations

import errno
import logging
import os
import socket

import uvicorn

from vidan import logs
from vidan.api import application
from vidan.api.guard import VARIABLE, is_loopback
from vidan.config import Settings
from vidan.errors import UsageError, VidanError

STOP_SECONDS = 5
"""Time, in seconds, that running requests get to end after a signal to stop."""

Address = tuple[socket.AddressFamily, str]
"""An address family, and an IP address of that family."""

log = logging.getLogger(__name__)


def serve(settings: Settings, host: str, port: int) -> int:
    """Listen on all addresses of `host`, and serve until SIGINT or SIGTERM; return the exit code.

    The signal is then passed to the caller's handler. Raises what `vidan.api.serve` raises.
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
        server = uvicorn.Config(
            app,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # no line for each step
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sockets[0].getsockname()[1]}"
        log.info("listening on %s, described at %s/docs", address, address)
        uvicorn.Server(server).run(sockets=sockets)
    finally:
        database.close()
    return 0


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
            sockets.append(socket.create_server((ip, port), family=family, backlog=2048))
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
