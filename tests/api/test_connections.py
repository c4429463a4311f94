"""Connections that ask slowly, never, or too often, and those that do not read the answer."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from vidan.api import bounded_log, connections
from vidan.api.connections import BoundedConnection

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


PIECE = 128 * 1024
PIECES = 200
ended = threading.Event()
"""Set when a long answer has ended, whole or not."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/long":
        ended.clear()
        try:
            await long_answer(receive, send)
        finally:
            ended.set()
        return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def long_answer(receive: Receive, send: Send) -> None:
    headers = [(b"content-length", str(PIECE * PIECES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left in reversed(range(PIECES)):
        body = {"type": "http.response.body", "body": bytes(PIECE), "more_body": left > 0}
        await send(body)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(connections, "READ_SECONDS", 1.0)
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


def asking_for_much(address: tuple[str, int]) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.connect(address)
    client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    client.settimeout(20)
    return client


def read(client: socket.socket, pause: float = 0) -> int:
    """Read to the end of the answer or connection; returns the number of bytes."""
    found = 0
    while found < PIECE * PIECES:
        try:
            part = client.recv(PIECE)
        except ConnectionResetError:
            break
        if not part:
            break
        found += len(part)
        time.sleep(pause)
    return found


def test_a_client_that_does_not_read_is_closed(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, connections.__name__)
    with asking_for_much(address) as client:
        assert client.recv(100)
        assert ended.wait(20)
        assert read(client) < PIECE * PIECES
    assert "the connection of 127.0.0.1 is closed: the client did not read in 1 s" in caplog.text


def test_a_client_that_reads_slowly_gets_all(address: tuple[str, int]) -> None:
    with asking_for_much(address) as client:
        began = time.monotonic()
        assert read(client, pause=0.02) >= PIECE * PIECES
    assert time.monotonic() - began > 2  # several looks came meanwhile


def test_answers_that_nobody_reads_have_a_bound_together(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 60.0)
    monkeypatch.setattr(connections, "ALL_ANSWERS", PIECE // 4)
    with asking_for_much(address) as client:
        assert ended.wait(20)
        assert read(client) < PIECE * PIECES
    assert "clients have not read" in caplog.text


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


def test_what_is_closed_is_told_but_not_without_end(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    handler, bounded = Kept(), bounded_log.BoundedLog()
    handler.addFilter(bounded)
    logging.getLogger("vidan.api").addHandler(handler)
    held = [socket.create_connection(address) for _ in range(5)]
    for one in held:
        assert answered(one)
    for _ in range(60):
        with socket.create_connection(address) as further:
            assert is_closed(further)
    for one in held:
        one.close()
    assert lines[0] == (
        "the connection of 127.0.0.1 is closed: there are 5 connections, which is the most"
    )
    assert len([line for line in lines if "the most" in line]) == bounded_log.MOST_LINES
    monkeypatch.setattr(bounded_log, "WINDOW", 0.0)
    bounded.tell()
    logging.getLogger("vidan.api").removeHandler(handler)
    assert "40 more lines like those of vidan.api.connections" in lines[-1]
