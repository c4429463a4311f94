"""The consumer of both brokers: it keeps its group over restarts and moves of the broker."""

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
"""Longest time, in seconds, that `close` waits for the client to leave its group: while the broker
is unavailable, librdkafka may never finish.
"""

REVOKE_LIMIT = 1.0
"""Longest time, in seconds, that a leaving client waits for its partitions to be revoked, which
librdkafka does without the broker.
"""

PROBE_SECONDS = 2.0
"""Seconds between two requests to a broker that was lost, to find out whether it is back."""


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
        self._built = 0  # number of clients built so far
        self._probed = 0.0  # when the broker was last probed, on the monotonic clock
        self._last: dict[tuple[str, int], int] = {}
        """The last offset received of each partition that this member holds on the present broker.

        Other partitions belong to other members, or to a broker that no longer exists.
        """

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
        """See `base.Consumer`. Does nothing for partitions that belong to another member now."""
        if self._client is None or not self._held(message):
            return
        try:
            self._client.seek(TopicPartition(message.topic, message.partition, message.offset))
        except KafkaException as error:
            self._health.note(error.args[0])

    def close(self) -> None:
        """See `base.Consumer`. Waits for commits under way, CLOSE_LIMIT at most."""
        self._closed = True
        closing = self._drop()
        if closing is not None:
            closing.join(CLOSE_LIMIT)

    def _receive(self, client: Consumer, timeout: float, limit: int) -> list[Received]:
        try:
            # The first message ends the wait; messages fetched already come with it.
            received = self._take(client.consume(1, timeout))
            if received and limit > 1:
                received += self._take(client.consume(limit - 1, 0))
        except KafkaException as error:
            self._note(error.args[0])
            return []
        if received:
            self._health.delivered()
        elif self._health.in_trouble:
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
        """Ask for the topics, since an idle consumer does not notice that the broker is back."""
        if time.monotonic() - self._probed < PROBE_SECONDS:
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
        """Drop the client. A thread closes it, for ever if the broker stays unavailable."""
        client, self._client = self._client, None
        self._client_address = None
        self._fatal = False
        self._last.clear()
        if client is None:
            return None
        closing = threading.Thread(target=_leave, args=[client], name="consumer-close", daemon=True)
        closing.start()
        return closing

    # Callbacks of librdkafka. They run inside `consume`: in the caller's thread, or, for a client
    # that was dropped, in the thread that closes it.

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
            log.info("%s: offsets were not committed: %s", self._health.client, error.str())

    def _note_of(self, built: int, error: KafkaError) -> None:
        if built == self._built and self._client is not None:
            self._note(error)

    def _note(self, error: KafkaError) -> None:
        self._health.note(error)
        self._fatal = self._fatal or is_fatal(error)


def _leave(client: Consumer) -> None:
    """Give the partitions back, then leave the group and close.

    The order matters. With librdkafka 2.16, `close` can hang if a rebalance still waits to be
    served: the rebalance callback asks the group something while the group ends, and is never
    answered. The Python wrapper asks while it holds the GIL, so all threads would hang.
    """
    deadline = time.monotonic() + REVOKE_LIMIT
    try:
        client.unsubscribe()
        # Messages received here are not committed, so another member gets them.
        client.consume(1000, 0)
        while client.assignment():
            if time.monotonic() >= deadline:
                log.warning("a leaving consumer still has partitions after %.0f s", REVOKE_LIMIT)
                break
            client.consume(1000, 0.01)
    except KafkaException as error:
        log.debug("a leaving consumer: %s", error)
    client.close()
