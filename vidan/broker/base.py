"""What vidan asks of a message broker.

Two implementations stand behind these protocols, Kafka and the embedded one, and pass one contract
suite. Delivery is at least once: a message may come again, late, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it was read. `value` is None for a tombstone, `timestamp_ms` 0 if unknown."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as bytes, whatever is in it. `value` is None for a tombstone."""

    key: bytes | None
    value: bytes | None


class Producer(Protocol):
    """Announces scenarios. Safe to share between threads."""

    def send(self, topic: str, scenario_ids: Sequence[int]) -> list[int]:
        """Send an event for each scenario, keyed by its id, and wait for the delivery reports.

        Returns the ids whose delivery failed. With the broker absent that is all of them, after
        about 3 s: it raises nothing. One that is reported as failed may have been delivered.
        """
        ...

    def send_raw(self, topic: str, messages: Sequence[Raw]) -> list[int]:
        """Send messages as they are, and wait for the delivery reports as `send` does.

        Returns the places in `messages` of those whose delivery failed.
        """
        ...

    def close(self) -> None:
        """Let go of the broker. Idempotent."""
        ...


class Consumer(Protocol):
    """A member of a consumer group, for one thread. It stays one by calling `poll` all the time."""

    def poll(self, timeout: float, limit: int = 100) -> list[Received]:
        """Wait at most `timeout` seconds for a message; returns up to `limit` that are there then.

        What is wrong with the broker is logged once per change, not per poll, and gives [].
        """
        ...

    def pause(self) -> None:
        """Fetch nothing but stay in the group, whatever partitions come later. Idempotent.

        What is being fetched at that moment of a partition that comes may still be received.
        """
        ...

    def resume(self) -> None:
        """Receive again, from the first message not yet returned. Idempotent."""
        ...

    def commit(self, messages: Sequence[Received]) -> None:
        """Record that these are dealt with, and what stands before them in their partitions.

        Returns at once; a failure is only logged. Messages of partitions that have gone to another
        member are left to it.
        """
        ...

    def rewind(self, message: Received) -> None:
        """Receive this message again, and what stands behind it in its partition."""
        ...

    def close(self) -> None:
        """Leave the group, so that the others take over at once. Idempotent."""
        ...


class Broker(Protocol):
    """A broker: its clients and its topics."""

    def producer(self) -> Producer:
        """A producer, also while the broker is absent: it connects when there is one."""
        ...

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        """A member of `group`, also while the broker is absent: it joins when there is one."""
        ...

    def create_topics(self, partitions: int, replication: int) -> list[str]:
        """Create vidan's topics where they are missing; returns the names created.

        Raises BrokerUnavailable within 5 s, UsageError for numbers that the broker does not allow.
        """
        ...

    def topics(self) -> dict[str, int]:
        """Name and number of partitions of every topic. Raises BrokerUnavailable within 5 s."""
        ...

    def lag(self, group: str, topic: str) -> int:
        """How many messages of a topic a group has not committed yet, over all partitions.

        Of a partition where it has committed nothing, that is all that are kept. A topic that
        doesn't exist has none. Raises BrokerUnavailable within 5 s.
        """
        ...
