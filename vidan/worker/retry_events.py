"""TODO: say what this module is for."""

from __future__ import annotations

import logging
import queue
import threading

from vidan.broker.base import Producer
from vidan.broker.messages import RETRY_TOPIC

log = logging.getLogger("vidan.worker")


class RetryEvents:
    """Sends events to the retry topic in a thread: without a broker each try takes seconds."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="retry-events", daemon=True)
        self._thread.start()

    def add(self, scenario_id: int) -> None:
        """Send an event soon. Lost, it costs latency only: a sweep finds the scenario when due."""
        self._waiting.put(scenario_id)

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._waiting.put(None)
        self._thread.join(5)

    def _send(self) -> None:
        while (first := self._waiting.get()) is not None:
            ids, last = [first], False
            while not self._waiting.empty() and not last:
                following = self._waiting.get()
                last = following is None
                ids += [] if following is None else [following]
            try:
                self._producer.send(RETRY_TOPIC, ids)
            except Exception:  # these are found by a sweep; others are still to come
                log.exception("retry events were not sent")
            if last:
                return
