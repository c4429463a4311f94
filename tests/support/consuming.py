"""Sending to a broker and receiving from it, as the contract tests of brokers do."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import Consumer as RawConsumer
from confluent_kafka import KafkaException
from confluent_kafka import Producer as RawProducer
from confluent_kafka.admin import AdminClient

from vidan.broker import Consumer, Producer, Received, envelope
from vidan.broker.connection import is_passing
from vidan.config import Settings

T = TypeVar("T")

Join = Callable[..., Consumer]
"""Makes a consumer of the test's topic, in its group if no other is named."""


def wait_until(true: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


def settled(ask: Callable[[], T], timeout: float = 30) -> T:
    """Return `ask()`, asked again while Kafka elects a leader, moves a group or spreads a topic."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ask()
        except KafkaException as error:
            if not is_passing(error.args[0]) or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def partitions(client: AdminClient | RawConsumer, topic: str) -> list[int]:
    """Return the partitions of a topic, as soon as it exists and each partition has a leader."""
    found: list[int] = []

    def led() -> bool:
        nonlocal found
        answer = settled(lambda: client.list_topics(topic, timeout=10).topics[topic])
        found = list(answer.partitions)
        return bool(found) and all(one.leader >= 0 for one in answer.partitions.values())

    wait_until(led)
    return found


def receive(consumer: Consumer, count: int, timeout: float = 30) -> list[Received]:
    """Poll until `count` messages have come, or fail."""
    received: list[Received] = []
    deadline = time.monotonic() + timeout
    while len(received) < count:
        assert time.monotonic() < deadline, f"{len(received)} of {count} messages came"
        received += consumer.poll(0.5)
    return received


def polled(consumer: Consumer, seconds: float) -> list[Received]:
    """Return all messages that come within some seconds."""
    deadline = time.monotonic() + seconds
    received: list[Received] = []
    while time.monotonic() < deadline:
        received += consumer.poll(0.2)
    return received


def ids(received: Sequence[Received]) -> list[int]:
    return sorted(envelope.decode(message.value).scenario_id for message in received)


def produce_raw(settings: Settings, topic: str, values: Sequence[bytes | None]) -> None:
    """Produce values to partition 0, as a foreign producer may."""
    client = RawProducer({"bootstrap.servers": settings.bootstrap_servers()})
    for value in values:
        client.produce(topic, value, partition=0)
    assert client.flush(10) == 0


def share_out(producer: Producer, members: Sequence[Consumer], topic: str) -> None:
    """Poll the members until each holds some of the four partitions and no message is left."""
    deadline = time.monotonic() + 60
    for number in itertools.count(1):
        assert time.monotonic() < deadline, "the partitions were not shared out"
        producer.send(topic, range(number, number + 20))
        heard: list[set[int]] = []
        for member in members:
            received = polled(member, 0.4)
            member.commit(received)
            heard.append({message.partition for message in received})
        if all(heard) and len(set.union(*heard)) == sum(map(len, heard)) == 4:
            break
    for member in members:
        while received := member.poll(0.3):
            member.commit(received)
