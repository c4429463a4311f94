"""The embedded broker's process, and behaviour that only one of the two brokers has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError

from tests.support.kafka import EmbeddedSettings, HostedBroker, RealKafka
from vidan.broker import connect
from vidan.broker.kafka import Administration
from vidan.broker.producer import KafkaProducer
from vidan.config import Settings
from vidan.errors import UsageError


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[HostedBroker]:
    broker = HostedBroker(tmp_path / "made" / "on the way" / "address")
    broker.start()
    yield broker
    broker.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal_and_takes_its_address_away(
    hosted: HostedBroker, number: signal.Signals
) -> None:
    host, port = hosted.bootstrap_servers.split(":")
    assert host == "127.0.0.1"
    assert 0 < int(port) < 65536
    process = psutil.Process(hosted.pid)
    os.kill(hosted.pid, number)
    hosted.stop()
    assert not process.is_running()
    assert list(hosted.address_file.parent.iterdir()) == []


def test_it_leaves_the_address_of_another_alone(hosted: HostedBroker) -> None:
    hosted.address_file.write_text("127.0.0.1:4711", encoding="utf-8")
    hosted.stop()
    assert hosted.address_file.read_text(encoding="utf-8") == "127.0.0.1:4711"


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    address_file = tmp_path / "address"
    code = (
        "import sys, time; from vidan.processes import lifeline;"
        "child = lifeline.spawn('vidan.broker.embedded', ['--address-file', sys.argv[1]]);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(address_file)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    broker = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 20
    while not address_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.communicate()
    broker.wait(10)
    assert not address_file.exists()


def test_it_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    started = subprocess.run(
        [sys.executable, "-m", "vidan.broker.embedded", "--address-file", tmp_path / "file" / "a"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert started.returncode == 1
    assert started.stderr.startswith("the embedded broker can't start: ")
    assert started.stderr.count("\n") == 1


def test_a_producer_is_built_anew_after_a_fatal_error(
    embedded_broker: HostedBroker, tmp_path: Path
) -> None:
    settings = EmbeddedSettings(home=tmp_path, address_file=embedded_broker.address_file)
    producer = connect(settings).producer()
    assert isinstance(producer, KafkaProducer)
    topic = f"topic-{uuid.uuid4()}"
    assert producer.send(topic, [1]) == []
    first = producer._client
    # No broker can be made to send this error: call the client's error callback with it.
    fatal = KafkaError(KafkaError._FATAL, "out of order", fatal=True)
    producer._note_of(producer._built, fatal)
    assert producer.send(topic, [2]) == []
    second = producer._client
    assert second is not first
    producer._note_of(
        producer._built - 1, fatal
    )  # another thread gets the error of the first client late
    assert producer.send(topic, [3]) == []
    assert producer._client is second
    producer.close()


@pytest.mark.kafka
def test_kafka_refuses_more_replicas_than_it_has_brokers(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    servers = {"bootstrap.servers": real_kafka.bootstrap_servers}
    settings = Settings(home=tmp_path, kafka=servers)
    topic = f"topic-{uuid.uuid4()}"
    with pytest.raises(UsageError, match=f"refused to create topic {topic}") as caught:
        Administration(settings, {}).create(topic, partitions=1, replication=5)
    assert "--replication" in (caught.value.hint or "")
    assert Administration(settings, {}).create(topic, partitions=2, replication=1)
    assert not Administration(settings, {}).create(topic, partitions=3, replication=1)
    assert Administration(settings, {}).topics()[topic] == 2


@pytest.mark.kafka
def test_the_newer_group_protocol_works(real_kafka: RealKafka, tmp_path: Path) -> None:
    topic = f"topic-{uuid.uuid4()}"
    servers = {"bootstrap.servers": real_kafka.bootstrap_servers, "group.protocol": "consumer"}
    broker = connect(Settings(home=tmp_path, kafka=servers))
    producer, consumer = broker.producer(), broker.consumer(topic, [topic])
    try:
        assert producer.send(topic, [1]) == []
        consumer.pause()
        assert consumer.poll(3) == []
        consumer.resume()
        assert len(consumer.poll(20)) == 1
    finally:
        consumer.close()
        producer.close()
