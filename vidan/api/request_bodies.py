"""Bounds what requests may send: the size of a body, its time, and the memory of all bodies."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 2**20
"""Largest body of a request, in bytes."""

ALL_BODIES = 32 * LARGEST_BODY
"""Most bytes of the bodies of all requests at once: those that came in part count too."""

BODY_SECONDS = 20.0
"""Longest time, in seconds, in which the body of a request has to come."""


class RequestBodies:
    """ASGI middleware that refuses a body that is too large, too slow, or one too many.

    The answers are 413, 408 and 503. A body that is announced as too large is not read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its body bounded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > LARGEST_BODY:
            await _refusal(413, "the body is too large")(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        ends, own, whole = loop.time() + BODY_SECONDS, 0, False

        async def bounded() -> Message:
            nonlocal own, whole
            if whole:
                return await receive()  # what follows the body is the end of the connection
            try:
                message = await asyncio.wait_for(receive(), max(0.0, ends - loop.time()))
            except TimeoutError:
                raise HTTPException(408, "the body did not come in time", _CLOSE) from None
            whole = not message.get("more_body", False)
            size = len(message.get("body", b""))
            own, self._held = own + size, self._held + size
            if own > LARGEST_BODY:
                raise HTTPException(413, "the body is too large", _CLOSE)
            if self._held > ALL_BODIES:
                raise HTTPException(503, "too many requests at once", {**_CLOSE, **_RETRY})
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._held -= own


_CLOSE = {"Connection": "close"}
_RETRY = {"Retry-After": "5"}


def _announced(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(length) if length.isdigit() else 0


def _refusal(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status, headers=_CLOSE)
