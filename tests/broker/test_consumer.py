"""A consumer whose client never finishes closing, as librdkafka may without a broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest

from vidan.broker import consumer as consumer_module
from vidan.broker.connection import Address
from vidan.broker.consumer import KafkaConsumer
from vidan.config import Settings

released = threading.Event()


class Stuck(confluent_kafka.Consumer):
    def close(self) -> None:
        released.wait(60)
        super().close()


class Moving(Address):
    """An address that differs each time it is read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.looks = 0

    def current(self) -> str | None:
        self.looks += 1
        return f"127.0.0.1:{self.looks}"


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KafkaConsumer]:
    monkeypatch.setattr(consumer_module, "Consumer", Stuck)
    monkeypatch.setattr(consumer_module, "CLOSE_LIMIT", 0.3)
    released.clear()
    made = KafkaConsumer(Moving(Settings(tmp_path)), "group", ["topic"], {})
    yield made
    released.set()
    for thread in threading.enumerate():
        if thread.name == "consumer-close":
            thread.join()


def test_a_client_that_hangs_does_not_keep_the_loop_from_the_next(
    consumer: KafkaConsumer,
) -> None:
    began = time.monotonic()
    for _ in range(3):
        assert consumer.poll(0) == []
    assert time.monotonic() - began < 30


def test_nor_the_process_from_leaving(consumer: KafkaConsumer) -> None:
    consumer.poll(0)
    began = time.monotonic()
    consumer.close()
    consumer.close()
    assert 0.2 < time.monotonic() - began < 30
