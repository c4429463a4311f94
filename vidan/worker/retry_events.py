"""The events that tell an orchestrator of failed runs: sent to the retry topic by a thread."""

from __future__ import annotations

import logging
import queue
import threading

from vidan.broker.base import Producer
from vidan.broker.messages import RETRY_TOPIC

log = logging.getLogger("vidan.worker")

CLOSE_SECONDS = 5.0
"""Longest time, in seconds, that a worker which leaves waits for its last events to be sent."""


class RetryEvents:
    """Sends events in its own thread: each try takes seconds while the broker is unavailable."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="retry-events", daemon=True)
        self._thread.start()

    def add(self, scenario_id: int) -> None:
        """Send an event soon. A lost event costs latency: a sweep finds the scenario when due."""
        self._waiting.put(scenario_id)

    def close(self) -> None:
        """Send the waiting events, for CLOSE_SECONDS at most, and end the thread."""
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _send_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            ids, last = [first], False
            while not self._waiting.empty() and not last:
                following = self._waiting.get()
                last = following is None
                ids += [] if following is None else [following]
            try:
                self._producer.send(RETRY_TOPIC, ids)
            except Exception:  # a sweep finds these scenarios; later events must still be sent
                log.exception("retry events were not sent")
            if last:
                return
