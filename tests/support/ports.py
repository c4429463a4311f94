"""TCP ports for servers that are started later."""

from __future__ import annotations

import random
import socket


def free_ports(count: int) -> list[int]:
    """Return ports that are free on 127.0.0.1, below the range for clients."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


def free_port() -> int:
    """Return one free port."""
    return free_ports(1)[0]
