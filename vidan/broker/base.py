"""The protocols that a message broker implements.

There are two implementations, Kafka and the embedded broker, which pass one contract suite. A
message may come more than once, late, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was read. `value` is None for a tombstone, `timestamp_ms` 0 if unknown."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as bytes, whatever they contain. `value` is None for a tombstone."""

    key: bytes | None
    value: bytes | None


class Producer(Protocol):
    """Sends messages. Threads may share it."""

    def send(self, topic: str, scenario_ids: Sequence[int]) -> list[int]:
        """Send an event for each scenario, keyed by its id, and wait for the delivery reports.

        Returns the ids whose delivery failed: all of them, after about 3 s, while the broker is
        unavailable. Raises nothing. A message reported as failed may still have been delivered.
        """
        ...

    def send_raw(self, topic: str, messages: Sequence[Raw]) -> list[int]:
        """Send messages unchanged, and wait for the delivery reports as `send` does.

        Returns the indices in `messages` of the messages whose delivery failed.
        """
        ...

    def close(self) -> None:
        """Close the connections. Idempotent."""
        ...


class Consumer(Protocol):
    """A member of a consumer group, for one thread. It stays a member while the thread polls it."""

    def poll(self, timeout: float, limit: int = 100) -> list[Received]:
        """Wait at most `timeout` seconds for a message; return it with others, `limit` at most.

        Trouble with the broker returns []; it is logged once per change, not once per poll.
        """
        ...

    def pause(self) -> None:
        """Stop fetching but stay in the group. Idempotent.

        Partitions that are assigned later are paused too; messages that are being fetched from one
        at that moment may still be received.
        """
        ...

    def resume(self) -> None:
        """Fetch again, from the first message not yet returned. Idempotent."""
        ...

    def commit(self, messages: Sequence[Received]) -> None:
        """Record that these messages, and all before them in their partitions, are dealt with.

        Returns at once; a failure is only logged. Messages of partitions that now belong to another
        member are not committed.
        """
        ...

    def rewind(self, message: Received) -> None:
        """Receive this message again, and all after it in its partition."""
        ...

    def close(self) -> None:
        """Leave the group, so that the other members take over at once. Idempotent."""
        ...


class Broker(Protocol):
    """A broker: its clients and its topics."""

    def producer(self) -> Producer:
        """Return a producer. It connects as soon as the broker is available."""
        ...

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        """Return a member of `group`. It joins as soon as the broker is available."""
        ...

    def create_topics(self, partitions: int, replication: int) -> list[str]:
        """Create those of vidan's topics that are missing; returns their names.

        Raises BrokerUnavailable within 5 s, UsageError for numbers that the broker does not allow.
        """
        ...

    def topics(self) -> dict[str, int]:
        """Return each topic with its number of partitions. Raises BrokerUnavailable within 5 s."""
        ...

    def lag(self, group: str, topic: str) -> int:
        """Return how many messages of a topic a group has not committed, over all partitions.

        In a partition where the group has committed nothing, all messages that are kept count. A
        topic that doesn't exist has none. Raises BrokerUnavailable within 5 s.
        """
        ...
