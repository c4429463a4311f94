"""Lets processes of vidan find a database and a broker: by settings, or as an embedded stack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.kafka import HostedBroker, RealKafka
from vidan.config import Settings
from vidan.stack_state import KEEPER_LOCK, FileLock, StackState, write_state


@contextmanager
def found(home: Path, database_url: str, broker: RealKafka | HostedBroker) -> Iterator[Settings]:
    """Yield settings with which processes use both, for the block.

    With a hosted broker, this process is the keeper of an embedded stack, so that the processes
    find the broker again after it has moved to another port.
    """
    if isinstance(broker, RealKafka):
        yield Settings(home, database_url, {"bootstrap.servers": broker.bootstrap_servers})
        return
    lock = FileLock(home / KEEPER_LOCK)
    assert lock.acquire(shared=False)
    try:
        address = str(broker.address_file)
        write_state(home, StackState(os.getpid(), database_url, True, {}, address))
        yield Settings(home)
    finally:
        lock.release()
