"""Measures how soon a worker receives an announcement after the broker has returned."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition

from vidan.broker.messages import RUNNERS_GROUP, SCENARIOS_TOPIC
from vidan.config import Settings

PATIENCE = 30.0
"""Longest time, in seconds, that one measurement takes."""
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Heard:
    """When, after the return of the broker, a worker had received and committed an announcement.

    `fed` is the first scenario that was created after the return. `seconds` is None if the watch
    was ended before a worker received an announcement.
    """

    returned: float
    fed: int | None
    seconds: float | None


class Watch:
    """Polls the offsets of the workers' group, in a thread for each return of the broker."""

    def __init__(self, settings: Settings, feed: Callable[[], int | None]) -> None:
        self.heard: list[Heard] = []
        self._settings = settings
        self._feed = feed
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def begin(self) -> None:
        """Begin to watch: the broker has just returned."""
        self._over.clear()
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stop watching: the broker is stopped again, or the run has ended."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _watch(self) -> None:
        returned, since = time.time(), time.monotonic()
        # the consumer never joins the group, it only reads its offsets
        consumer = Consumer(
            {
                "bootstrap.servers": self._settings.bootstrap_servers(),
                "group.id": RUNNERS_GROUP,
                "log_level": 0,
            }
        )
        try:
            before = first = seconds = None
            fed = 0.0
            while not self._over.is_set() and time.monotonic() - since < PATIENCE:
                with contextlib.suppress(KafkaException):
                    offsets = self._offsets(consumer)
                    before = offsets if before is None else before
                    if offsets > before:
                        seconds = time.monotonic() - since
                        break
                if time.monotonic() - fed > 0.3:
                    fed = time.monotonic()
                    created = self._feed()
                    first = created if first is None else first
                time.sleep(0.05)
            self.heard.append(Heard(returned, first, seconds))
        finally:
            consumer.close()

    @staticmethod
    def _offsets(consumer: Consumer) -> int:
        places = [TopicPartition(SCENARIOS_TOPIC, number) for number in range(PARTITIONS)]
        found = consumer.committed(places, timeout=1)
        return sum(max(0, place.offset) for place in found)
