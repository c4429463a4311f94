"""A stack as an embedded one is, for processes of a benchmark, which is its keeper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.kafka import HostedBroker
from vidan.config import Settings
from vidan.home import KEEPER_LOCK, FileLock, StackState, write_state


@contextmanager
def kept(folder: Path, database_url: str, broker: HostedBroker) -> Iterator[Settings]:
    """Settings by which processes find this database and this broker, which they know for one."""
    lock = FileLock(folder / KEEPER_LOCK)
    lock.acquire(shared=False)
    try:
        address = str(broker.address_file)
        write_state(folder, StackState(os.getpid(), database_url, True, {}, address))
        yield Settings(home=folder)
    finally:
        lock.release()
