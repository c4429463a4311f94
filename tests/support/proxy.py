"""A proxy in front of PostgreSQL that can cut off the answer to a COMMIT that has succeeded.

The proxy passes bytes on in both directions, with a thread for each, and reads along: from what the
client sends it learns what the transaction is about, from the server's answers that it committed.
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
    """The transactions of a worker, each with a piece of SQL by which the proxy knows it."""

    COMMIT = "UPDATE scenarios SET checkpoint = "
    CLAIM = "epoch = s.epoch + 1"
    ENDING = "result = CASE WHEN r.to_status = 'completed'"


class Proxy:
    """Listens on a port of 127.0.0.1, and connects to the Unix socket that `target` returns."""

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
        """Cut off the answer to the next COMMIT of such a transaction, and wait for it.

        Returns the time (time.time()) and the application_name of the session, or None if there
        was no such COMMIT within `seconds`.
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
            except OSError:  # the server does not run: the client sees its connection end
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
            if session.end():  # the other direction has ended too
                source.close()
                sink.close()

    @staticmethod
    def _from_client(session: _Session, content: bytes) -> bool:
        session.sent(content)
        return True

    def _from_server(self, session: _Session, content: bytes) -> bool:
        """Read what the server answers. Returns False if the client must not get it."""
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
    """What the proxy knows about one connection."""

    def __init__(self) -> None:
        self.application = ""
        self._client = bytearray()
        self._server = bytearray()
        self._started = False
        self._refusals = 0  # bytes that refuse encryption, one each, before the server's messages
        self._prepared: dict[bytes, set[Transaction]] = {}
        self._about: set[Transaction] = set()
        self._ends = 2

    def end(self) -> bool:
        """Note that one direction has ended. Returns whether both have."""
        self._ends -= 1
        return self._ends == 0

    def sent(self, content: bytes) -> None:
        """Read along with what the client sends."""
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
        """Read along with the server's answers. Returns what was committed, if anything was."""
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
    """Take the complete messages off the buffer: the type and the body of each."""
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
