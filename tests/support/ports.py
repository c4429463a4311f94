"""TCP ports for servers that a test starts later."""

from __future__ import annotations

import random
import socket


def free_ports(count: int) -> list[int]:
    """Return free ports of 127.0.0.1, below the range from which systems give ports to clients."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no port is free")


def free_port() -> int:
    """Return one free port."""
    return free_ports(1)[0]
