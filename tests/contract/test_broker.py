"""What both brokers do alike, the real Kafka and the embedded one: messages and topics."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter

import pytest

from tests.support.consuming import Join, ids, produce_raw, receive, wait_until
from vidan.broker import Broker, Producer, Raw, envelope, messages
from vidan.config import Settings
from vidan.domain.bounds import MAX_ID
from vidan.errors import UsageError


def test_every_group_receives_every_message_as_it_was_sent(
    producer: Producer, join: Join, topic: str
) -> None:
    before = time.time() * 1000 - 1
    assert producer.send(topic, [7, MAX_ID]) == []
    for consumer in (join("first " + topic), join("second " + topic)):
        received = receive(consumer, 2)
        assert ids(received) == [7, MAX_ID]
        for message in received:
            assert message.topic == topic
            assert message.key == str(envelope.decode(message.value).scenario_id).encode()
            assert before <= message.timestamp_ms <= time.time() * 1000 + 1
        assert consumer.poll(0.5) == []


def test_many_are_sent_at_once_and_one_id_always_goes_to_one_partition(
    producer: Producer, join: Join, topic: str
) -> None:
    assert producer.send(topic, range(1, 3001)) == []
    assert producer.send(topic, range(1, 101)) == []
    assert producer.send(topic, []) == []
    partitions: dict[bytes | None, set[int]] = {}
    for message in receive(join(), 3100):
        partitions.setdefault(message.key, set()).add(message.partition)
    assert len(partitions) == 3000
    assert all(len(found) == 1 for found in partitions.values())
    assert len(set.union(*partitions.values())) == 4


def test_what_is_sent_raw_comes_as_it_was(producer: Producer, join: Join, topic: str) -> None:
    raws = [
        Raw(None, None),
        Raw(b"", b""),
        Raw(b"7", b"\x00\xff"),
        Raw(b"7", b"again"),
        Raw(b"7", b"again"),
        Raw(b"big", b"x" * 3_000_000),  # librdkafka refuses to send it
        Raw(b"8", b"the last"),
    ]
    assert producer.send_raw(topic, raws) == [5]
    assert producer.send_raw(topic, []) == []
    received = receive(join(), 6)
    found = Counter((message.key or None, message.value) for message in received)
    assert found == Counter((raw.key or None, raw.value) for raw in raws if raw.key != b"big")
    assert len({message.partition for message in received if message.key == b"7"}) == 1


def test_threads_share_a_producer(producer: Producer, join: Join, topic: str) -> None:
    failed: list[int] = []

    def send(first: int) -> None:
        for start in range(first, first + 100, 10):
            failed.extend(producer.send(topic, range(start, start + 10)))

    threads = [threading.Thread(target=send, args=(first,)) for first in (1, 101, 201, 301)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert ids(receive(join(), 400)) == list(range(1, 401))


def test_a_poll_ends_with_the_first_message_and_keeps_the_limit(
    producer: Producer, join: Join, topic: str
) -> None:
    consumer = join()
    producer.send(topic, [1])
    receive(consumer, 1)
    sender = threading.Timer(0.5, producer.send, (topic, [2]))
    sender.start()
    started = time.monotonic()
    assert ids(consumer.poll(30)) == [2]
    assert time.monotonic() - started < 20
    sender.join()

    producer.send(topic, range(10, 20))
    seen: list[int] = []
    while len(seen) < 10:
        batch = consumer.poll(10, limit=3)
        assert 1 <= len(batch) <= 3
        seen += ids(batch)
    assert sorted(seen) == list(range(10, 20))
    assert consumer.poll(0) == []


def test_behind_a_burst_no_message_waits_long(producer: Producer, join: Join, topic: str) -> None:
    """librdkafka fetches little ahead, and by default would pause for a second each time."""
    consumer = join()
    producer.send(topic, [1])
    receive(consumer, 1)
    for begin in range(2, 32_000, 2_000):
        assert producer.send(topic, range(begin, begin + 2_000)) == []
    rests, last, count = 0, time.monotonic(), 0
    while count < 32_000:
        count += len(consumer.poll(5))
        now = time.monotonic()
        rests, last = rests + (now - last > 0.5), now
    assert rests <= 2  # a busy machine may cause one


def test_any_payload_passes_as_it_is(broker_settings: Settings, join: Join, topic: str) -> None:
    payloads = [b"\xff\x00garbage", None, b"", b'{"v": 1', b"x" * 300_000, b"last"]
    produce_raw(broker_settings, topic, payloads)
    received = receive(join(), len(payloads))
    assert [message.value for message in received] == payloads
    assert [message.offset for message in received] == list(range(len(payloads)))
    assert {message.key for message in received} == {None}


def test_a_topic_that_is_made_later_is_found(broker: Broker, producer: Producer) -> None:
    topic = f"later-{uuid.uuid4()}"
    consumer = broker.consumer(topic, [topic])
    try:
        assert consumer.poll(1) == []
        wait_until(lambda: producer.send(topic, [5]) == [])
        assert ids(receive(consumer, 1)) == [5]
    finally:
        consumer.close()


def test_topics_are_created_once(
    broker: Broker, broker_kind: str, broker_settings: Settings
) -> None:
    # The topics are those of the protocol. No other test in these files uses them.
    existed = set(broker.topics()) & set(messages.TOPICS)
    assert set(broker.create_topics(partitions=3, replication=1)) == set(messages.TOPICS) - existed
    assert broker.create_topics(partitions=5, replication=1) == []
    wait_until(lambda: set(messages.TOPICS) <= set(broker.topics()))
    if not existed:
        count = {"kafka": 3, "embedded": 4}[broker_kind]
        assert {broker.topics()[topic] for topic in messages.TOPICS} == {count}
    assert not [topic for topic in broker.topics() if topic.startswith("__")]
    for numbers in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(UsageError):
            broker.create_topics(*numbers)
