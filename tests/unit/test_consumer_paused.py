"""A consumer gives out nothing while it is paused, whatever librdkafka has fetched before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from confluent_kafka import Consumer, TopicPartition

from vidan.broker.clients import KafkaConsumer
from vidan.broker.connection import Address
from vidan.config import Settings


@dataclass
class Fetched:
    """A message as the client has it."""

    at: int

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return "topic"

    def partition(self) -> int:
        return 2

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return (1, 0)

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"


@dataclass
class Leaky:
    """A client whose pause came too late for three messages."""

    fetched: list[Fetched]
    paused: list[tuple[str, int]] = field(default_factory=list)
    sought: list[tuple[str, int, int]] = field(default_factory=list)

    def consume(self, count: int, _timeout: float) -> list[Any]:
        given, self.fetched = self.fetched[:count], self.fetched[count:]
        return given

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused += [(one.topic, one.partition) for one in partitions]

    def seek(self, place: TopicPartition) -> None:
        self.sought.append((place.topic, place.partition, place.offset))


def test_what_comes_while_it_is_paused_is_to_come_once_resumed(tmp_path: Path) -> None:
    consumer = KafkaConsumer(Address(Settings(tmp_path)), "group", ["topic"], {})
    client = Leaky([Fetched(at) for at in (6, 7, 8, 9)])
    (before,) = consumer._receive(cast(Consumer, client), 0, 1)
    consumer.pause()

    assert consumer._receive(cast(Consumer, client), 0, 10) == []

    assert client.paused == [("topic", 2)]
    assert client.sought == [("topic", 2, 7)]
    assert consumer._held(before)  # it can be committed still
