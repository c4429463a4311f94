"""The producer of both brokers: it waits for delivery reports and follows the broker's address."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from vidan.broker import messages as wire
from vidan.broker import options
from vidan.broker.base import Raw
from vidan.broker.connection import Address, Health, build, is_fatal

SEND_LIMIT = 3.4
"""Longest time, in seconds, that `send` waits for reports: librdkafka gives up after 3 seconds."""


class KafkaProducer:
    """Sends messages idempotently, acknowledged by all replicas. See `base.Producer`."""

    def __init__(self, address: Address, chosen: Mapping[str, Any]) -> None:
        self._address = address
        self._chosen = chosen
        self._health = Health("producer")
        self._lock = threading.Lock()
        self._closed = False
        self._client: Producer | None = None
        self._client_address: str | None = None
        self._fatal = False
        self._built = 0  # number of clients built so far

    def send(self, topic: str, scenario_ids: Sequence[int]) -> list[int]:
        """See `base.Producer`. Raises ValueError for an id outside 1…2⁶³-1, before sending any."""
        ids = list(dict.fromkeys(scenario_ids))
        messages = [Raw(str(one).encode(), wire.encode(one)) for one in ids]
        return [ids[place] for place in self.send_raw(topic, messages)]

    def send_raw(self, topic: str, messages: Sequence[Raw]) -> list[int]:
        """See `base.Producer`."""
        deadline = time.monotonic() + SEND_LIMIT
        failed = set(range(len(messages)))
        client, built = self._connected() if messages else (None, 0)
        if client is None:
            return list(failed)
        note = partial(self._note_of, built)
        reports = 0

        def report(place: int, error: KafkaError | None, _message: Message) -> None:
            nonlocal reports
            reports += 1
            if error is None:
                failed.discard(place)
            else:
                note(error)

        queued = 0
        for place, raw in enumerate(messages):
            told = partial(report, place)
            produce = partial(client.produce, topic, raw.value, raw.key, on_delivery=told)
            queued += self._queue(client, produce, note, deadline)
        # Wait in steps: another thread that polls may receive the last report.
        while reports < queued and (left := deadline - time.monotonic()) > 0:
            client.poll(min(left, 0.1))
        if len(failed) < len(messages):
            self._health.delivered()
        return sorted(failed)

    def close(self) -> None:
        """See `base.Producer`. Drops messages still queued: they were reported as failed."""
        with self._lock:
            self._closed = True
            self._drop()

    def _queue(
        self,
        client: Producer,
        produce: Callable[[], None],
        note: Callable[[KafkaError], None],
        deadline: float,
    ) -> bool:
        while True:
            try:
                produce()
                return True
            except BufferError:  # the queue is full; reports of delivery make room
                if time.monotonic() >= deadline:
                    return False
                client.poll(0.05)
            except KafkaException as error:
                note(error.args[0])
                return False

    def _note_of(self, built: int, error: KafkaError) -> None:
        """Note an error of client number `built`; after a fatal one it is replaced."""
        self._health.note(error)
        if is_fatal(error):
            with self._lock:
                self._fatal = self._fatal or built == self._built

    def _connected(self) -> tuple[Producer | None, int]:
        """Return the client and its number; no client while no broker is known."""
        with self._lock:
            if self._closed:
                return None, self._built
            address = self._address.current()
            if address is None:
                self._health.no_address()
            if self._fatal or address != self._client_address:
                self._drop()
            if self._client is None and address is not None:
                settings = {
                    **options.producer_options(self._chosen),
                    "bootstrap.servers": address,
                }
                self._built += 1
                note = partial(self._note_of, self._built)
                self._client = build(Producer, settings, note, self._chosen)
                self._client_address = address
            return self._client, self._built

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._client_address = None
        self._fatal = False
        if client is not None:
            client.purge(blocking=False)
