"""A proxy before a PostgreSQL that can withhold the answer to a COMMIT that succeeded.

It passes bytes on as they come, both ways, a thread each, and reads along: what the client sends in
order to know what the transaction is about, what the server answers in order to see its COMMIT.
The messages are those of protocol 3.0 (PostgreSQL's documentation, "Message Formats").
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_CHUNK = 65_536


class Transaction(Enum):
    """The kinds of a worker's transactions, each with a piece of SQL that identifies it."""

    COMMIT = "UPDATE scenarios SET checkpoint = "
    CLAIM = "epoch = s.epoch + 1"
    ENDING = "result = CASE WHEN r.to_status = 'completed'"


class Proxy:
    """Listens on a port of 127.0.0.1 and connects to the Unix socket that `target` names."""

    def __init__(self, target: Callable[[], Path]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.armed: Transaction | None = None
        """The kind of transaction whose next COMMIT gets no answer."""
        self._cut_at: float | None = None
        self._cut_of = ""
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut_next(self, transaction: Transaction, seconds: float) -> tuple[float, str] | None:
        """Cut the answer of the next COMMIT of such a transaction, if one comes in so many seconds.

        Returns when that was (time.time()) and the application_name of the session, or None.
        """
        with self._changed:
            self.armed, self._cut_at = transaction, None
            self._changed.wait_for(lambda: self._cut_at is not None, seconds)
            self.armed = None
            return None if self._cut_at is None else (self._cut_at, self._cut_of)

    def close(self) -> None:
        """Stop listening and cut all connections."""
        self._listener.close()
        with self._changed:
            for one in self._open:
                _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(str(self._target()))
            except OSError:  # the server is unavailable: the client's connection ends
                client.close()
                server.close()
                continue
            session = _Session()
            for source, sink, see in (
                (client, server, self._from_client),
                (server, client, self._from_server),
            ):
                threading.Thread(
                    target=self._pass, args=(source, sink, see, session), daemon=True
                ).start()

    def _pass(
        self,
        source: socket.socket,
        sink: socket.socket,
        see: Callable[[_Session, bytes], bool],
        session: _Session,
    ) -> None:
        with self._changed:
            self._open.add(source)
        try:
            while content := source.recv(_CHUNK):
                if not see(session, content):
                    break
                sink.sendall(content)
        except OSError:
            pass
        finally:
            with self._changed:
                self._open.discard(source)
            _end(source)
            _end(sink)
            if session.let_go():  # the other direction has ended too
                source.close()
                sink.close()

    @staticmethod
    def _from_client(session: _Session, content: bytes) -> bool:
        session.sent(content)
        return True

    def _from_server(self, session: _Session, content: bytes) -> bool:
        """See what the server answers. Returns False when the client is not to get it."""
        committed = session.answered(content)
        if committed is None or self.armed not in committed:
            return True
        with self._changed:
            if self.armed not in committed:
                return True
            self.armed = None
            self._cut_at, self._cut_of = time.time(), session.application
            self._changed.notify_all()
        return False


class _Session:
    """The state of one connection."""

    def __init__(self) -> None:
        self.application = ""
        self._client = bytearray()
        self._server = bytearray()
        self._started = False
        self._refusals = 0  # of encryption: single bytes that come before the server's messages
        self._prepared: dict[bytes, set[Transaction]] = {}
        self._about: set[Transaction] = set()
        self._ends = 2

    def let_go(self) -> bool:
        """Count a direction that has ended. Returns whether it was the second."""
        self._ends -= 1
        return self._ends == 0

    def sent(self, content: bytes) -> None:
        """Read what the client sends."""
        self._client += content
        while not self._started:
            if len(self._client) < 8:
                return
            length, code = struct.unpack_from("!ii", self._client)
            if len(self._client) < length:
                return
            body = bytes(self._client[8:length])
            del self._client[:length]
            if code in (_SSL, _GSS):
                self._refusals += 1
                continue
            self._started = True
            if code != _CANCEL:
                words = body.split(b"\0")
                pairs = dict(zip(words[::2], words[1::2], strict=False))
                self.application = pairs.get(b"application_name", b"").decode()
        for kind, body in _messages(self._client):
            if kind == b"P":
                name, query = body.split(b"\0", 2)[:2]
                self._prepared[name] = {one for one in Transaction if one.value.encode() in query}
            elif kind == b"B":
                self._about |= self._prepared.get(body.split(b"\0", 2)[1], set())

    def answered(self, content: bytes) -> set[Transaction] | None:
        """Read along what the server answers. Returns what a COMMIT that is in it was about."""
        self._server += content
        while self._refusals and self._server:
            self._refusals -= 1
            del self._server[:1]
        committed = None
        for kind, body in _messages(self._server):
            if kind == b"C" and body in (b"COMMIT\0", b"ROLLBACK\0"):
                if body == b"COMMIT\0":
                    committed = self._about
                self._about = set()
        return committed


def _messages(waiting: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Remove the complete messages; return their type and body."""
    while len(waiting) >= 5:
        length = 1 + struct.unpack_from("!i", waiting, 1)[0]
        if len(waiting) < length:
            return
        kind, body = bytes(waiting[:1]), bytes(waiting[5:length])
        del waiting[:length]
        yield kind, body


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
