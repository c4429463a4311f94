"""Watches a broker that is back: when the first announcement has been received by a worker."""

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
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Heard:
    """Some time after the return a worker had received, and committed, an announcement.

    `fed` is the first scenario that was created then. `seconds` is None if that did not come about
    before the watch was ended.
    """

    returned: float
    fed: int | None
    seconds: float | None


class Watch:
    """Looks at the group's offsets, in a thread for each return."""

    def __init__(self, settings: Settings, feed: Callable[[], int | None]) -> None:
        self.heard: list[Heard] = []
        self._settings = settings
        self._feed = feed
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def begin(self) -> None:
        """Watch from now on: the broker has just come back."""
        self._over.clear()
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stop watching: the broker goes away again, or all is over."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _watch(self) -> None:
        returned, since = time.time(), time.monotonic()
        # no member of the group: it only asks for its offsets
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
