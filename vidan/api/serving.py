"""`vidan api`: sockets, log and the server that runs the application."""

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
"""How long requests may go on once the server is told to stop."""

Address = tuple[socket.AddressFamily, str]
"""A family and an IP address of it."""

log = logging.getLogger(__name__)


def serve(settings: Settings, host: str, port: int) -> int:
    """Listen at all addresses of `host` and serve until SIGINT or SIGTERM, which go on to the
    caller's handlers. Raises as `vidan.api.serve` says.
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
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # no news of each step
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sockets[0].getsockname()[1]}"
        log.info("listening on %s, described at %s/docs", address, address)
        uvicorn.Server(server).run(sockets=sockets)
    finally:
        database.close()
    return 0


def _addresses(host: str, port: int) -> list[Address]:
    """The addresses of a host, each with its family. Raises UsageError."""
    try:
        if not host:
            raise OSError
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"no such host: {host!r}", hint="--host 127.0.0.1, for example") from None
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _listen(addresses: list[Address], host: str, port: int) -> list[socket.socket]:
    """A listening socket an address. Raises VidanError when there is none to be had."""
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, ip in addresses:
        try:
            sockets.append(socket.create_server((ip, port), family=family, backlog=2048))
        except OSError as error:
            problem = error
            if error.errno != errno.EADDRNOTAVAIL:  # a family that this machine doesn't use
                break
    if sockets and (problem is None or problem.errno == errno.EADDRNOTAVAIL):
        return sockets
    for opened in sockets:
        opened.close()
    why = os.strerror(problem.errno).lower() if problem and problem.errno else "no address"
    raise VidanError(f"can't listen on {host}, port {port}: {why}", hint="choose another --port")
