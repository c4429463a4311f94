"""Connections that ask slowly, never, or too often."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from vidan.api import connections
from vidan.api.connections import BoundedConnection

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    config = uvicorn.Config(app, http=BoundedConnection, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join(20)


def answered(client: socket.socket) -> bool:
    client.sendall(ASK)
    client.settimeout(20)
    found = b""
    while not found.endswith(b"ok"):
        part = client.recv(100_000)
        if not part:
            return False
        found += part
    return True


def is_closed(client: socket.socket) -> bool:
    client.settimeout(20)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_silent_and_slow_connections_are_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as silent, socket.create_connection(address) as slow:
        slow.sendall(ASK[:20])
        assert is_closed(silent)
        assert is_closed(slow)
    with socket.create_connection(address) as second:  # slow with its second request only
        assert answered(second)
        second.sendall(ASK[:20])
        assert is_closed(second)


def test_there_are_only_so_many_at_once(address: tuple[str, int]) -> None:
    held = []
    for _ in range(5):
        held.append(socket.create_connection(address))
        assert answered(held[-1])
    began = time.monotonic()
    with socket.create_connection(address) as further:
        assert is_closed(further)
    assert time.monotonic() - began < 10
    for one in held:
        one.close()
