"""When a worker listens to its topic, and when it claims: its consumer and its sweeps."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from vidan import inbox
from vidan.broker.base import Consumer, Received
from vidan.worker.slots import Slots

IDLE_POLL_SECONDS = 0.1
SHORT_SECONDS = 0.01
"""So long after a claim of tasks without a source their ends are waited for, and no messages."""
SWEEP_SECONDS = 0.25
WORKERS_A_SWEEP_SECOND = 250
"""All live workers together sweep this often a second."""
DEAF_SECONDS = 1.0
"""So long a consumer that was paused may fetch nothing: librdkafka sleeps through its resume."""
DEAF_SWEEPS = 8
"""So many times as often it sweeps meanwhile."""


class Polling:
    """Polls while a slot is free, and tells when to claim: on a message, a free slot, or a sweep.

    `soon`: something says that there is work, or room for it; the next claim is not to wait.
    """

    def __init__(self, consumer: Consumer, slots: Slots) -> None:
        self.soon = True
        self._consumer = consumer
        self._slots = slots
        self._next_sweep = 0.0
        self._short = False  # tasks have begun that may end at once
        self._paused = False
        self._deaf_until = 0.0

    def receive(self) -> list[Received]:
        """Poll while a slot is free; without one, stay in the group and wait for a slot."""
        if self._slots.free <= 0 and not self.wait_for_room():
            if not self._paused:
                self._consumer.pause()
                self._paused = True
            return self._consumer.poll(0)
        if self._paused:
            self._consumer.resume()
            self._paused = False
            self._deaf_until = time.monotonic() + DEAF_SECONDS
        if self.soon or self.wait_for_room(SHORT_SECONDS if self._short else 0):
            return self._consumer.poll(0)
        self._short = False
        until_sweep = max(0.0, self._next_sweep - time.monotonic())
        return self._consumer.poll(min(IDLE_POLL_SECONDS, until_sweep))

    def wait_for_room(self, seconds: float = IDLE_POLL_SECONDS) -> bool:
        """Wait until a run has ended and few wait for its slot: then it is time to claim."""
        if not self._slots.low.wait(seconds):
            return False
        self._slots.low.clear()
        self.soon = True
        return True

    def told(self, received: Sequence[Received]) -> bool:
        """Whether something says that there is work; asked once, then forgotten."""
        soon, self.soon = self.soon, False
        return bool(received) or soon

    @property
    def sweep_due(self) -> bool:
        """Whether it is time to claim though nothing was said."""
        return time.monotonic() >= self._next_sweep

    def claimed(self, *, short: bool, live_workers: int) -> None:
        """Set the time of the next sweep. `short`: tasks are among them that may end at once."""
        self._short |= short
        interval = max(SWEEP_SECONDS, live_workers / WORKERS_A_SWEEP_SECOND)
        if time.monotonic() < self._deaf_until:
            interval /= DEAF_SWEEPS
        self._next_sweep = time.monotonic() + interval * random.uniform(0.75, 1.25)

    def commit(self, received: Sequence[Received]) -> None:
        """These are dealt with."""
        self._consumer.commit(received)

    def rewind(self, received: Sequence[Received]) -> None:
        """Receive these again."""
        inbox.rewind(self._consumer, received)

    def close(self) -> None:
        """Leave the group; it may be called again."""
        self._consumer.close()
