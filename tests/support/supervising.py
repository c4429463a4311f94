"""Runs a supervisor in the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vidan.supervisor.supervisor import Supervisor


@contextmanager
def running(supervisor: Supervisor) -> Iterator[None]:
    """Run it in a thread; at the end its workers hand over, and those that still run are killed."""
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield
    finally:
        supervisor.signals = 1
        thread.join(30)
        supervisor.signals = 2
        thread.join(30)
        assert not thread.is_alive()
