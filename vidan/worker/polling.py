"""When a worker polls its topic and when it claims: its consumer, its hints and its sweeps."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from vidan import inbox
from vidan.broker.base import Consumer, Received
from vidan.worker.slots import Slots

IDLE_POLL_SECONDS = 0.1
"""Longest time, in seconds, that one poll waits for messages, or for a free slot."""
SHORT_TASKS_SECONDS = 0.01
"""After claiming tasks without a source, wait this many seconds for them to end before polling for
messages."""
SWEEP_SECONDS = 0.25
"""Shortest mean interval, in seconds, between two claims that no hint has caused (sweeps)."""
SWEEPS_PER_SECOND = 250
"""Most sweeps that all live workers together make in a second."""
DEAF_SECONDS = 1.0
"""How long, in seconds, a resumed consumer may fetch nothing: librdkafka sleeps through resume."""
DEAF_SWEEPS = 8
"""While the consumer may be deaf, sweep this many times more often."""


class Polling:
    """Polls while a slot is free, and decides when to claim: on a hint, or when a sweep is due.

    A hint is a message, or `claim_now`: there may be work, or room for it, so the next claim must
    not wait.
    """

    def __init__(self, consumer: Consumer, slots: Slots) -> None:
        self.claim_now = True
        self._consumer = consumer
        self._slots = slots
        self._next_sweep = 0.0
        self._short_tasks = False  # whether tasks were claimed that may end at once
        self._paused = False
        self._deaf_until = 0.0

    def receive(self) -> list[Received]:
        """Poll while a slot is free; else stay in the consumer group and wait for a slot."""
        if self._slots.free <= 0 and not self.wait_for_room():
            if not self._paused:
                self._consumer.pause()
                self._paused = True
            return self._consumer.poll(0)
        if self._paused:
            self._consumer.resume()
            self._paused = False
            self._deaf_until = time.monotonic() + DEAF_SECONDS
        if self.claim_now or self.wait_for_room(SHORT_TASKS_SECONDS if self._short_tasks else 0):
            return self._consumer.poll(0)
        self._short_tasks = False
        until_sweep = max(0.0, self._next_sweep - time.monotonic())
        return self._consumer.poll(min(IDLE_POLL_SECONDS, until_sweep))

    def wait_for_room(self, seconds: float = IDLE_POLL_SECONDS) -> bool:
        """Wait until a run has ended and few runs wait for a slot; return whether that came."""
        if not self._slots.few_waiting.wait(seconds):
            return False
        self._slots.few_waiting.clear()
        self.claim_now = True
        return True

    def hinted(self, received: Sequence[Received]) -> bool:
        """Return whether there is a hint, and clear `claim_now`."""
        claim_now, self.claim_now = self.claim_now, False
        return bool(received) or claim_now

    @property
    def sweep_due(self) -> bool:
        """Whether it is time to claim without a hint."""
        return time.monotonic() >= self._next_sweep

    def plan_sweep(self, *, short_tasks: bool, live_workers: int) -> None:
        """Set the time of the next sweep. `short_tasks`: whether claimed tasks may end at once."""
        self._short_tasks |= short_tasks
        interval = max(SWEEP_SECONDS, live_workers / SWEEPS_PER_SECOND)
        if time.monotonic() < self._deaf_until:
            interval /= DEAF_SWEEPS
        self._next_sweep = time.monotonic() + interval * random.uniform(0.75, 1.25)

    def commit(self, received: Sequence[Received]) -> None:
        """Commit the offsets of messages that need no further work."""
        self._consumer.commit(received)

    def rewind(self, received: Sequence[Received]) -> None:
        """Receive these messages again."""
        inbox.rewind(self._consumer, received)

    def close(self) -> None:
        """Leave the consumer group; may be called more than once."""
        self._consumer.close()
