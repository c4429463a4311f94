"""Bodies that are too large, too slow, or too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from vidan.api import request_bodies
from vidan.api.request_bodies import LARGEST_BODY, RequestBodies


def echo() -> FastAPI:
    app = FastAPI()
    app.add_middleware(RequestBodies)

    @app.post("/")
    async def size(request: Request) -> int:
        return len(await request.body())

    return app


def in_pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(LARGEST_BODY // 4)


def test_the_largest_body_passes_and_one_byte_more_does_not() -> None:
    client = TestClient(echo())
    assert client.post("/", content=bytes(LARGEST_BODY)).json() == LARGEST_BODY
    assert client.post("/", content=in_pieces(4)).json() == LARGEST_BODY
    for too_large in (bytes(LARGEST_BODY + 1), in_pieces(5)):
        answer = client.post("/", content=too_large)
        assert (answer.status_code, answer.json()) == (413, {"detail": "the body is too large"})


def test_the_memory_of_finished_requests_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "ALL_BODIES", LARGEST_BODY)
    client = TestClient(echo())
    for _ in range(5):
        assert client.post("/", content=bytes(LARGEST_BODY)).status_code == 200


async def asked(app: FastAPI, *pieces: bytes | float) -> int:
    """Send pieces of a body that never ends, waiting where a number stands; return the status."""
    left = list(pieces)
    sent: list[Any] = []

    async def receive() -> Any:
        while left:
            piece = left.pop(0)
            if isinstance(piece, bytes):
                return {"type": "http.request", "body": piece, "more_body": True}
            await asyncio.sleep(piece)
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status


def test_a_body_that_never_ends_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "BODY_SECONDS", 0.3)
    slowly: list[bytes | float] = [b"x", 0.05] * 100  # single bytes do not put the end off
    assert asyncio.run(asked(echo(), *slowly)) == 408


def test_unfinished_bodies_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "ALL_BODIES", 4 * LARGEST_BODY)
    monkeypatch.setattr(request_bodies, "BODY_SECONDS", 1.0)

    async def many() -> list[int]:
        app = echo()
        return await asyncio.gather(*(asked(app, bytes(LARGEST_BODY)) for _ in range(10)))

    assert sorted(asyncio.run(many())) == [408] * 4 + [503] * 6
