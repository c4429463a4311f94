"""Clients of both brokers while the broker is unavailable, and once it is back."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.consuming import Join, ids, polled, receive, wait_until
from tests.support.kafka import EmbeddedSettings, HostedBroker, RealKafka
from vidan.broker import Producer, Raw, connect
from vidan.broker import consumer as consumer_module
from vidan.config import Settings
from vidan.errors import BrokerUnavailable

NOWHERE = "127.0.0.1:1"
"""An address that refuses connections."""


def test_an_absent_broker_raises_nothing_but_from_administration(
    broker_kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(consumer_module, "CLOSE_LIMIT", 60.0)  # closing must not take that long
    broker = connect(nowhere(broker_kind, tmp_path))
    producer, consumer = broker.producer(), broker.consumer("group", ["topic"])
    started = time.monotonic()
    assert producer.send("topic", [3, 1, 2]) == [3, 1, 2]
    assert time.monotonic() - started < 20
    for timeout in (0, 0.3, 1.2):
        started = time.monotonic()
        assert consumer.poll(timeout) == []
        assert timeout <= time.monotonic() - started < timeout + 20
    consumer.pause()
    consumer.resume()
    assert polled(consumer, 1) == []
    assert producer.send_raw("topic", [Raw(b"1", b"x"), Raw(None, None)]) == [0, 1]
    asks = (broker.topics, lambda: broker.create_topics(1, 1), lambda: broker.lag("g", "topic"))
    for ask in asks:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            ask()
        assert time.monotonic() - started < 20
        assert NOWHERE in str(caught.value)
        assert "KAFKA_BOOTSTRAP_SERVERS" in (caught.value.hint or "")
        assert "vidan up" in (caught.value.hint or "")
    started = time.monotonic()
    producer.close()
    consumer.close()
    assert time.monotonic() - started < 20
    assert producer.send("topic", [1]) == [1]
    said = Counter(record.getMessage().split(":")[0] for record in caplog.records)
    assert said == {"producer": 1, "consumer of group": 1}
    assert capfd.readouterr().err == ""


def nowhere(broker_kind: str, folder: Path) -> Settings:
    if broker_kind == "kafka":
        return Settings(home=folder, kafka={"bootstrap.servers": NOWHERE})
    address_file = folder / "nowhere"
    address_file.write_text(NOWHERE, encoding="utf-8")
    return EmbeddedSettings(home=folder, address_file=address_file)


def test_an_address_that_appears_later_is_found(
    broker_kind: str,
    broker_settings: Settings,
    topic: str,
    group: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "vidan.broker")
    address_file = tmp_path / "later.address"
    # With DATABASE_URL given, the embedded broker is never used, but the other implementation.
    database = "postgresql://db/vidan" if broker_kind == "kafka" else None
    settings = EmbeddedSettings(home=tmp_path, database_url=database, address_file=address_file)
    broker = connect(settings)
    producer, consumer = broker.producer(), broker.consumer(group, [topic])
    try:
        with pytest.raises(BrokerUnavailable, match="no Kafka broker is known"):
            broker.topics()
        assert producer.send(topic, [1, 2]) == [1, 2]
        started = time.monotonic()
        assert consumer.poll(0.5) == []
        assert 0.5 <= time.monotonic() - started < 20
        consumer.pause()
        address_file.write_text(broker_settings.bootstrap_servers() or "", encoding="utf-8")
        wait_until(lambda: producer.send(topic, [1, 2]) == [], timeout=10)
        assert polled(consumer, 5) == []
        consumer.resume()
        assert {1, 2} <= set(ids(receive(consumer, 2)))
        said = Counter(record.getMessage() for record in caplog.records)
        for who in ("producer", f"consumer of {group}"):
            assert said[f"{who}: Kafka can't be reached: no broker is known"] == 1
            assert said[f"{who}: Kafka answers again"] == 1
    finally:
        producer.close()
        consumer.close()


def test_clients_recover_from_a_restart_of_the_broker(
    broker_server: RealKafka | HostedBroker,
    producer: Producer,
    join: Join,
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "vidan.broker")
    consumer = join()
    producer.send(topic, [1])
    before = receive(consumer, 1)
    consumer.commit(before)
    address = broker_server.bootstrap_servers
    broker_server.stop()
    try:
        started = time.monotonic()
        assert producer.send(topic, [2, 3]) == [2, 3]
        assert time.monotonic() - started < 20
        assert polled(consumer, 3) == []
        consumer.commit(before)
    finally:
        broker_server.start()
    moved = broker_server.bootstrap_servers != address
    assert moved == isinstance(broker_server, HostedBroker)
    wait_until(lambda: producer.send(topic, [4]) == [], timeout=20)
    # Messages reported as failed may come too, and 4 may come twice.
    assert 4 in ids(receive(consumer, 1))
    polled(consumer, 1)
    consumer.commit(before)  # maybe of a broker that no longer exists: does no harm
    producer.send(topic, [5])
    assert 5 in ids(receive(consumer, 1))
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert Counter(said).most_common(1)[0][1] == 1, "each change is said once"
