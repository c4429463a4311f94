"""Which requests pass: those with the token; if none is set, those from this machine."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vidan.api import documentation
from vidan.config import Settings
from vidan.errors import UsageError

VARIABLE = "VIDAN_API_TOKEN"

OPEN = documentation.PATHS | {"/health", "/openapi.json"}
"""Paths answered without the token: they reveal only whether the server works, and its routes."""


class Guard:
    """ASGI middleware that answers in place of the application when a request may not pass.

    If a token is set, a request without it gets 401, except for the paths in OPEN. If none is set,
    a request that did not arrive at a loopback address gets 403, whatever server runs the
    application. So does a request with a foreign Host header: otherwise a web page, opened on this
    machine, could reach the interface through a domain that resolves to 127.0.0.1. Requests are
    refused before their body is read.
    """

    def __init__(self, app: ASGIApp, token: bytes | None) -> None:
        self._app = app
        self._token = token

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on, or refuse it."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        return (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if self._token is None:
            if _is_from_here(scope):
                return None
            detail = (
                f"{VARIABLE} is not set: only requests from this machine to localhost are answered"
            )
            return JSONResponse({"detail": detail}, status_code=403)
        if scope["path"] in OPEN or self._has_token(scope):
            return None
        return JSONResponse(
            {"detail": f"the bearer token ({VARIABLE}) is missing or wrong"},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _has_token(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = b"".join(given[:1]).partition(b" ")
        right = hmac.compare_digest(token.strip(), self._token or b"")
        return right and scheme.lower() == b"bearer" and len(given) == 1


def token_of(settings: Settings) -> bytes | None:
    """Return the token as sent in a header. Raises UsageError if a header can't hold it."""
    token = settings.api_token
    if token is None:
        return None
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError(
            f"{VARIABLE} can't be sent in a header", hint="use only letters, digits and -._~+/"
        )
    return token.encode()


def is_loopback(address: str) -> bool:
    """Whether an IP address can be reached from this machine only."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback


def _is_from_here(scope: Scope) -> bool:
    server = scope.get("server")
    if not server or not is_loopback(server[0]):  # None: a Unix socket, which other users may reach
        return False
    named = Headers(scope=scope).get("host")
    return named is None or _is_own_name(named)


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)
