"""A proxy in front of PostgreSQL that can fall silent: it reads, and passes nothing on."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class SilentProxy:
    """Passes the connections of a TCP port on to a Unix socket, for the block.

    `silence` silences the connections that are open; later connections are passed on, unless the
    proxy `swallows` everything.
    """

    def __init__(self, target: str, database: str) -> None:
        self.swallows = False
        self._target = target
        self._silent: set[socket.socket] = set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.url = (
            f"postgresql://vidan@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"
        )

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def silence(self) -> int:
        """Pass on nothing more of the open connections, not even their ends; returns how many."""
        count = 0
        for pair in self._pairs:
            count += pair[0] not in self._silent
            self._silent.update(pair)
        return count

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._pairs.append((client, server))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                if source not in self._silent and not self.swallows:
                    sink.sendall(piece)
        if source not in self._silent:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
