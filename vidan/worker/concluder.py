"""Writes how runs ended in a thread of its own, while the worker's loop claims what comes next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vidan.backoff import BackOff
from vidan.errors import DatabaseUnavailable
from vidan.worker.lease import Lease
from vidan.worker.slots import Slots

log = logging.getLogger("vidan.worker")


class Concluder:
    """Calls `conclude` whenever runs have ended, under one lease, until it is closed.

    To claim and to conclude is mostly to wait for the database: side by side they take half as
    long. What was not concluded when it is closed is left to whoever closes it.
    """

    def __init__(self, lease: Lease, slots: Slots, conclude: Callable[[Lease], None]) -> None:
        self._lease = lease
        self._slots = slots
        self._conclude = conclude
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="concluder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; waits for what it is writing."""
        self._closed.set()
        self._slots.ended.set()
        self._thread.join()

    def _work(self) -> None:
        back_off = BackOff()
        while not self._lease.ended:
            self._slots.ended.wait()
            if self._closed.is_set():
                break
            try:
                self._conclude(self._lease)
            except DatabaseUnavailable as error:
                log.warning("%s", error)
            except Exception:  # nothing is lost by it: it is tried again
                log.exception("storing how runs ended failed")
            else:
                back_off.worked()
                continue
            self._slots.ended.set()  # there is something left to write
            self._closed.wait(back_off.pause())
