"""The embedded broker: librdkafka's in-memory cluster, which confluent-kafka's wheel contains.

`python -m vidan.broker.embedded --address-file PATH` hosts it in a process of its own, on a free
port of 127.0.0.1, and writes `host:port` to PATH. Any client built on librdkafka reaches it there.

What it can do: produce (idempotent too), fetch, consumer groups with rebalancing between processes,
committed offsets. What it can't:

- It forgets everything when its process ends, and comes back on another port.
- It knows no request to create topics (it closes the connection). A topic exists from the first
  time that it is asked for, always with 4 partitions and 1 replica.
- A rebalance takes as long as a member's session time-out less a second, however soon all have
  joined, and the first one 3 s. Members go on receiving from what they keep, and workers sweep the
  database meanwhile.
- A fetch that finds nothing is answered when its wait ends, not when a message comes.
- It keeps the last 5 MB of each partition.
- No authentication, no encryption: it listens on the loopback interface alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, Producer

from vidan.broker import messages
from vidan.broker.connection import Address
from vidan.broker.consumer import KafkaConsumer
from vidan.broker.kafka import Administration, require_positive
from vidan.broker.producer import KafkaProducer
from vidan.processes import lifeline

if TYPE_CHECKING:
    from vidan.config import Settings

_OPTIONS: Mapping[str, Any] = {
    "allow.auto.create.topics": "true",
    # A rebalance takes three seconds, see above. Not less: a member whose session ends before the
    # first rebalance does is thrown out each time, and never gets a partition.
    "session.timeout.ms": 4000,
    "heartbeat.interval.ms": 500,
}
_LATENCY_MS = {messages.SCENARIOS_TOPIC: 10, messages.RETRY_TOPIC: 100}
"""How long a fetch waits at most, see above. Retries are due in seconds: they may save the CPU."""


class EmbeddedBroker:
    """The embedded stack's broker, as its clients see it. See `base.Broker`."""

    def __init__(self, settings: Settings) -> None:
        """librdkafka settings are for a Kafka of one's own: they are not used here."""
        self._settings = settings

    def producer(self) -> KafkaProducer:
        """See `base.Broker`."""
        return KafkaProducer(Address(self._settings), _OPTIONS)

    def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        """See `base.Broker`."""
        wait = min(_LATENCY_MS.get(topic, 10) for topic in topics)
        options = {**_OPTIONS, "fetch.wait.max.ms": wait}
        return KafkaConsumer(Address(self._settings), group, topics, options)

    def topics(self) -> dict[str, int]:
        """See `base.Broker`."""
        return Administration(self._settings, {}).topics()

    def lag(self, group: str, topic: str) -> int:
        """See `base.Broker`."""
        return Administration(self._settings, {}).lag(group, topic)

    def create_topics(self, partitions: int, replication: int) -> list[str]:
        """See `base.Broker`. The numbers don't matter much: this broker has its own."""
        require_positive(partitions, replication)
        administration = Administration(self._settings, {})
        existing = administration.topics()
        missing = [topic for topic in messages.TOPICS if topic not in existing]
        for topic in missing:
            administration.touch(topic)
        return missing


def main(argv: Sequence[str] | None = None) -> int:
    """Host the broker until SIGTERM, SIGINT, or the parent's death; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vidan.broker.embedded")
    parser.add_argument("--address-file", type=Path, required=True, help="gets host:port")
    address_file: Path = parser.parse_args(argv).address_file
    end = _end()
    try:
        cluster, address = _start()
        _publish(address_file, address)
    except (OSError, KafkaException) as error:
        sys.stderr.write(f"the embedded broker can't start: {error}\n")
        return 1
    try:
        os.read(end, 1)
    finally:
        _withdraw(address_file, address)
        del cluster
    return 0


def _end() -> int:
    """A descriptor that can be read from when it is time to end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # The interpreter's C handler writes to the pipe. One in Python would not run if the signal came
    # just before the reading call, which would then never return.
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def parent_died() -> None:
        os.write(write_end, b".")

    lifeline.watch(parent_died)
    return read_end


def _start() -> tuple[Producer, str]:
    """The client that hosts the cluster for as long as it lives, and the cluster's address."""
    # log_level 0: nobody serves this client's log, which would otherwise go to stderr as it comes.
    cluster = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=5).brokers.values()
    for topic in messages.TOPICS:
        cluster.list_topics(topic, timeout=5)  # asked for, it is there: see `create_topics`
    return cluster, ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def _publish(path: Path, address: str) -> None:
    """Write the address so that a reader finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(address, encoding="utf-8")
    draft.replace(path)


def _withdraw(path: Path, address: str) -> None:
    """Remove the address, unless another broker has put its own there."""
    try:
        if path.read_text(encoding="utf-8") == address:
            path.unlink()
    except OSError:
        pass  # gone already, or its folder is


if __name__ == "__main__":
    sys.exit(main())
