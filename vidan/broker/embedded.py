"""The embedded broker: librdkafka's in-memory cluster, which confluent-kafka's wheel contains.

`python -m vidan.broker.embedded --address-file PATH` hosts it in a process of its own, on a free
port of 127.0.0.1, and writes `host:port` to PATH. Any client built on librdkafka reaches it there.

It supports producing (idempotent too), fetching, consumer groups that rebalance between processes,
and committed offsets. Its limits:

- It forgets everything when its process ends, and starts on another port the next time.
- It refuses requests to create topics (it closes the connection). A topic exists from the first
  request that names it, always with 4 partitions and 1 replica.
- A rebalance takes a member's session timeout less one second, however soon all members have
  joined; the first one takes 3 s. Members still receive from the partitions that they keep, and
  workers poll the database meanwhile.
- It answers a fetch that finds nothing when the wait ends, not when a message comes.
- It keeps the last 5 MB of each partition.
- It has no authentication and no encryption, and listens on the loopback interface alone: any
  user of this machine can reach it. librdkafka's cluster knows neither SASL nor Unix sockets.
- A client of another assignment strategy that joins a group of vidan's aborts the process. The
  keeper starts it again, and nothing is lost, since rows are the truth.
"""

from __future__ import annotations

import argparse
import os
import resource
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
    # With this, a rebalance takes three seconds (see above). With less, a member's session would
    # end before the first rebalance does, each time, and the member would never get a partition.
    "session.timeout.ms": 4000,
    "heartbeat.interval.ms": 500,
}
_LATENCY_MS = {messages.SCENARIOS_TOPIC: 10, messages.RETRY_TOPIC: 100}
"""Longest wait of a fetch, in milliseconds (see above). A longer wait saves processor time; retries
can afford it, being due in seconds.
"""


class EmbeddedBroker:
    """The embedded stack's broker, for its clients. See `base.Broker`."""

    def __init__(self, settings: Settings) -> None:
        """Take the address from the settings. Their librdkafka settings are for Kafka only."""
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
        """See `base.Broker`. The numbers are only checked: this broker has its own."""
        require_positive(partitions, replication)
        administration = Administration(self._settings, {})
        existing = administration.topics()
        missing = [topic for topic in messages.TOPICS if topic not in existing]
        for topic in missing:
            administration.touch(topic)
        return missing


def main(argv: Sequence[str] | None = None) -> int:
    """Host the broker until SIGTERM, SIGINT, or the parent's death. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vidan.broker.embedded")
    parser.add_argument(
        "--address-file", type=Path, required=True, help="file to write host:port to"
    )
    address_file: Path = parser.parse_args(argv).address_file
    end = _end_signal()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort leaves no file
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


def _end_signal() -> int:
    """Return a file descriptor that becomes readable when it is time to end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # The interpreter's C handler writes to the pipe. A Python handler would not run if the signal
    # came just before `os.read`, which would then never return.
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def parent_died() -> None:
        os.write(write_end, b".")

    lifeline.watch(parent_died)
    return read_end


def _start() -> tuple[Producer, str]:
    """Return the client that hosts the cluster as long as it exists, and the cluster's address."""
    # log_level 0: this client's log would otherwise go to stderr.
    cluster = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=5).brokers.values()
    for topic in messages.TOPICS:
        cluster.list_topics(topic, timeout=5)  # creates the topic
    return cluster, ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def _publish(path: Path, address: str) -> None:
    """Write the address in one step: a reader finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(address, encoding="utf-8")
    draft.replace(path)


def _withdraw(path: Path, address: str) -> None:
    """Remove the address, unless another broker has written its own."""
    try:
        if path.read_text(encoding="utf-8") == address:
            path.unlink()
    except OSError:
        pass  # the file or its folder was removed already


if __name__ == "__main__":
    sys.exit(main())
