"""TODO: say what this module is for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from vidan.broker import options
from vidan.broker.base import Received
from vidan.broker.connection import RECHECK, Address, Health, build, is_fatal

log = logging.getLogger("vidan.broker")


CLOSE_LIMIT = 5.0
"""Seconds that a consumer has to leave its group. Without a broker librdkafka may never be done."""


REVOKE_LIMIT = 1.0
"""Seconds for a client that leaves to hear that its partitions are revoked. It needs no broker."""


PROBE = 2.0
"""Seconds between two looks whether a broker that was lost is back."""


class KafkaConsumer:
    """A member of a consumer group, for one thread. See `base.Consumer`."""

    def __init__(
        self, address: Address, group: str, topics: Sequence[str], chosen: Mapping[str, Any]
    ) -> None:
        self._address = address
        self._group = group
        self._topics = list(topics)
        self._chosen = chosen
        self._health = Health(f"consumer of {group}")
        self._client: Consumer | None = None
        self._client_address: str | None = None
        self._paused = False
        self._closed = False
        self._fatal = False
        self._built = 0  # clients so far
        self._probed = 0.0
        # The last offset received of each partition that is held, from the broker at this address:
        # what is not in here is another member's, or of a broker that is gone.
        self._last: dict[tuple[str, int], int] = {}

    def poll(self, timeout: float, limit: int = 100) -> list[Received]:
        """See `base.Consumer`."""
        deadline = time.monotonic() + timeout
        while True:
            client = self._connected()
            step = max(0.0, min(RECHECK, deadline - time.monotonic()))
            received: list[Received] = []
            if client is None:
                time.sleep(step)
            else:
                received = self._receive(client, step, limit)
            if received or time.monotonic() >= deadline:
                return received

    def pause(self) -> None:
        """See `base.Consumer`."""
        if not self._paused:
            self._paused = True
            if self._client is not None:
                self._client.pause(self._client.assignment())

    def resume(self) -> None:
        """See `base.Consumer`."""
        if self._paused:
            self._paused = False
            if self._client is not None:
                self._client.resume(self._client.assignment())

    def commit(self, messages: Sequence[Received]) -> None:
        """See `base.Consumer`."""
        after: dict[tuple[str, int], int] = {}
        for message in filter(self._held, messages):
            place = (message.topic, message.partition)
            after[place] = max(after.get(place, 0), message.offset + 1)
        if self._client is None or not after:
            return
        offsets = [TopicPartition(*place, offset) for place, offset in after.items()]
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._health.note(error.args[0])

    def rewind(self, message: Received) -> None:
        """See `base.Consumer`. A message that went to another member comes to that one."""
        if self._client is None or not self._held(message):
            return
        try:
            self._client.seek(TopicPartition(message.topic, message.partition, message.offset))
        except KafkaException as error:
            self._health.note(error.args[0])

    def close(self) -> None:
        """See `base.Consumer`. Commits under way are finished first, if that can be."""
        self._closed = True
        closing = self._drop()
        if closing is not None:
            closing.join(CLOSE_LIMIT)

    def _receive(self, client: Consumer, timeout: float, limit: int) -> list[Received]:
        try:
            # The first message ends the wait; those already fetched come along.
            received = self._take(client.consume(1, timeout))
            if received and limit > 1:
                received += self._take(client.consume(limit - 1, 0))
        except KafkaException as error:
            self._note(error.args[0])
            return []
        if received:
            self._health.well()
        elif self._health.ill:
            self._probe(client)
        return received

    def _take(self, batch: Sequence[Message]) -> list[Received]:
        taken = []
        for message in batch:
            error = message.error()
            if error is not None:
                self._note(error)
                continue
            received = Received(
                topic=message.topic() or "",
                partition=message.partition() or 0,
                offset=message.offset() or 0,
                timestamp_ms=message.timestamp()[1],
                key=message.key(),
                value=message.value(),
            )
            self._last[received.topic, received.partition] = received.offset
            taken.append(received)
        return taken

    def _held(self, message: Received) -> bool:
        return message.offset <= self._last.get((message.topic, message.partition), -1)

    def _probe(self, client: Consumer) -> None:
        """An idle consumer hears nothing of a broker that is back: ask now and then."""
        if time.monotonic() - self._probed < PROBE:
            return
        try:
            found = client.list_topics(timeout=0.2).topics
        except KafkaException:
            pass
        else:
            if all(topic in found for topic in self._topics):
                self._health.answered()
        self._probed = time.monotonic()

    def _connected(self) -> Consumer | None:
        if self._closed:
            return None
        address = self._address.current()
        if address is None:
            self._health.no_address()
        if self._fatal or address != self._client_address:
            self._drop()
        if self._client is None and address is not None:
            settings = {
                **options.consumer_options(self._chosen),
                "group.id": self._group,
                "on_commit": self._committed,
                "bootstrap.servers": address,
            }
            self._built += 1
            note = partial(self._note_of, self._built)
            self._client = build(Consumer, settings, note, self._chosen)
            self._client_address = address
            self._client.subscribe(
                self._topics,
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
        return self._client

    def _drop(self) -> threading.Thread | None:
        """Let go of the client. A thread closes it: that can take for ever without its broker."""
        client, self._client = self._client, None
        self._client_address = None
        self._fatal = False
        self._last.clear()
        if client is None:
            return None
        closing = threading.Thread(target=_leave, args=[client], name="consumer-close", daemon=True)
        closing.start()
        return closing

    # Callbacks of librdkafka: they run inside `consume`, so in the caller's thread, or in the one
    # that closes the client, when it is no longer the one that counts.

    def _assigned(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        client.incremental_assign(partitions)
        if self._paused:
            client.pause(partitions)

    def _revoked(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        if client is not self._client:
            return
        for partition in partitions:
            self._last.pop((partition.topic, partition.partition), None)

    def _committed(self, error: KafkaError | None, _offsets: list[TopicPartition]) -> None:
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            log.info("%s: offsets were not committed: %s", self._health.who, error.str())

    def _note_of(self, built: int, error: KafkaError) -> None:
        if built == self._built and self._client is not None:
            self._note(error)

    def _note(self, error: KafkaError) -> None:
        self._health.note(error)
        self._fatal = self._fatal or is_fatal(error)


def _leave(client: Consumer) -> None:
    """Give the partitions back, then leave the group and close.

    In this order, since with librdkafka 2.16 a rebalance that is waiting to be served when `close`
    begins can hang it: the group may end while its callback asks it something, and the question is
    dropped unanswered. The wrapper asks with the GIL held, so all threads would stand still.
    """
    deadline = time.monotonic() + REVOKE_LIMIT
    try:
        client.unsubscribe()
        # What it still receives is not committed, so that another member gets it.
        client.consume(1000, 0)
        while client.assignment():
            if time.monotonic() >= deadline:
                log.warning("a consumer that leaves was not told so within %.0f s", REVOKE_LIMIT)
                break
            client.consume(1000, 0.01)
    except KafkaException as error:
        log.debug("a consumer that leaves: %s", error)
    client.close()
