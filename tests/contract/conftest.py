"""The broker of a test, and its clients, topic and group: once with Kafka, once embedded."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from tests.support.consuming import Join, partitions
from vidan.broker import Broker, Consumer, Producer, connect
from vidan.config import Settings


@pytest.fixture
def broker(broker_settings: Settings) -> Broker:
    return connect(broker_settings)


@pytest.fixture
def producer(broker: Broker) -> Iterator[Producer]:
    producer = broker.producer()
    yield producer
    producer.close()


@pytest.fixture
def topic(broker_settings: Settings) -> str:
    """A topic that only this test uses, with 4 partitions."""
    name = f"topic-{uuid.uuid4()}"
    client = AdminClient({"bootstrap.servers": broker_settings.bootstrap_servers() or ""})
    assert len(partitions(client, name)) == 4
    return name


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4()}"


@pytest.fixture
def join(broker: Broker, topic: str, group: str) -> Iterator[Join]:
    """Makes consumers of the test's topic, in its group if no other is named."""
    joined = []

    def join(group: str = group) -> Consumer:
        joined.append(broker.consumer(group, [topic]))
        return joined[-1]

    yield join
    for consumer in joined:
        consumer.close()
