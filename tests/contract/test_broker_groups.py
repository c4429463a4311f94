"""What both brokers do alike with consumer groups: members, commits, pauses, lag."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

from tests.support.consuming import Join, ids, polled, produce_raw, receive, share_out, wait_until
from tests.support.kafka import HostedBroker, RealKafka
from vidan.broker import Broker, Producer, Received
from vidan.config import Settings


def test_a_message_goes_to_one_member_of_a_group(
    producer: Producer, join: Join, topic: str
) -> None:
    members = [join(), join()]
    share_out(producer, members, topic)
    assert producer.send(topic, range(1001, 1101)) == []
    received: list[list[int]] = [[], []]
    deadline = time.monotonic() + 30
    while sum(map(len, received)) < 100:
        assert time.monotonic() < deadline
        for member, seen in zip(members, received, strict=True):
            seen += [number for number in ids(member.poll(0.2)) if number > 1000]
    assert all(received)
    assert sorted(received[0] + received[1]) == list(range(1001, 1101))
    assert [member.poll(0.5) for member in members] == [[], []]


def test_a_member_that_leaves_gives_its_partitions_to_the_others(
    producer: Producer, join: Join, topic: str
) -> None:
    staying, leaving = join(), join()
    share_out(producer, [staying, leaving], topic)
    leaving.close()
    leaving.close()
    assert leaving.poll(0.1) == []
    producer.send(topic, range(1001, 1041))
    assert set(ids(receive(staying, 40))) >= set(range(1001, 1041))


def test_to_leave_ends_whatever_the_group_is_doing(
    broker_server: RealKafka | HostedBroker, topic: str
) -> None:
    address = broker_server.bootstrap_servers
    kind = "kafka"
    if isinstance(broker_server, HostedBroker):
        kind, address = "embedded", str(broker_server.address_file)
    command = [sys.executable, "-m", "tests.support.leaving_consumers", kind, address, topic]
    subprocess.run(command, check=True, timeout=60)


def test_what_was_committed_does_not_come_again(producer: Producer, join: Join, topic: str) -> None:
    producer.send(topic, range(1, 21))
    first = join()
    first.commit(receive(first, 20))
    first.commit([])
    first.close()
    producer.send(topic, [100])
    second = join()
    assert ids(receive(second, 1)) == [100]
    assert polled(second, 1) == []


def test_what_was_not_committed_comes_again(producer: Producer, join: Join, topic: str) -> None:
    producer.send(topic, range(1, 21))
    first = join()
    done = [message for message in receive(first, 20) if message.partition != 0]
    first.commit(done)
    first.close()
    again = receive(join(), 20 - len(done))
    assert {message.partition for message in again} == {0}
    assert not set(again) & set(done)


def test_a_commit_covers_what_stands_before(
    broker_settings: Settings, join: Join, topic: str
) -> None:
    produce_raw(broker_settings, topic, [b"0", b"1", b"2", b"3"])
    first = join()
    received = receive(first, 4)
    first.commit([received[2], received[0]])
    first.close()
    assert [message.value for message in receive(join(), 1)] == [b"3"]


def test_rewinding_receives_again_in_order(
    broker_settings: Settings, join: Join, topic: str
) -> None:
    produce_raw(broker_settings, topic, [b"%d" % number for number in range(50)])
    consumer = join()
    first = consumer.poll(30, limit=1) or receive(consumer, 1)
    rest = receive(consumer, 50 - len(first))
    assert [message.offset for message in first + rest] == list(range(50))
    for place in (rest[10], rest[-1], first[0]):
        consumer.rewind(place)
        again = receive(consumer, 50 - place.offset)
        assert [message.offset for message in again] == list(range(place.offset, 50))

    consumer.rewind(rest[20])
    consumer.pause()
    assert polled(consumer, 0.5) == []
    consumer.rewind(rest[5])  # while it is paused
    consumer.resume()
    again = receive(consumer, 50 - rest[5].offset)
    assert [message.offset for message in again] == list(range(rest[5].offset, 50))

    elsewhere = replace(rest[0], topic="another")
    consumer.rewind(elsewhere)  # of a topic that this consumer does not read: nothing happens
    consumer.commit([elsewhere])
    assert polled(consumer, 0.5) == []


def test_nothing_is_delivered_while_paused_and_nothing_is_lost(
    producer: Producer, join: Join, topic: str
) -> None:
    consumer = join()
    producer.send(topic, range(1, 201))
    seen = ids(consumer.poll(30, limit=20))  # more messages are fetched already than returned
    for start in range(201, 501, 100):
        consumer.pause()
        consumer.pause()
        producer.send(topic, range(start, start + 100))
        assert polled(consumer, 1) == []
        consumer.resume()
        consumer.resume()
        seen += ids(receive(consumer, 1))
    seen += ids(receive(consumer, 500 - len(seen)))
    assert sorted(seen) == list(range(1, 501))


def test_partitions_that_come_while_paused_are_paused(
    producer: Producer, join: Join, topic: str
) -> None:
    producer.send(topic, range(1, 21))
    consumer = join()
    consumer.pause()
    # long enough to join; librdkafka may return messages that it fetched before the pause
    early = ids(polled(consumer, 4.5))
    assert producer.send(topic, range(21, 41)) == []
    assert not [one for one in ids(polled(consumer, 2)) if one > 20]
    consumer.resume()
    missing = set(range(1, 41)) - set(early)
    while missing:
        missing -= set(ids(receive(consumer, 1)))


def test_a_paused_member_stays_in_the_group(producer: Producer, join: Join, topic: str) -> None:
    paused, other = join(), join()
    share_out(producer, [paused, other], topic)
    paused.pause()
    producer.send(topic, range(1001, 1101))
    heard: list[Received] = []
    for _ in range(20):  # longer than the embedded broker's session time-out
        assert paused.poll(0.1) == []
        heard += other.poll(0.1)
    assert 0 < len(heard) < 100
    other.commit(heard)
    other.close()  # its partitions go to the paused member
    producer.send(topic, range(1101, 1201))
    assert polled(paused, 4.5) == []
    paused.resume()
    rest = receive(paused, 200 - len(heard))
    assert sorted(ids(heard) + ids(rest)) == list(range(1001, 1201))


def test_lag_is_what_a_group_has_not_committed(
    broker: Broker, producer: Producer, join: Join, topic: str, group: str
) -> None:
    assert broker.lag(group, topic) == 0
    assert broker.lag(group, f"no-such-{topic}") == 0
    producer.send(topic, range(1, 21))
    assert broker.lag(group, topic) == 20
    consumer = join()
    received = receive(consumer, 20)
    assert broker.lag(group, topic) == 20
    consumer.commit(received)
    wait_until(lambda: broker.lag(group, topic) == 0)
    producer.send(topic, [21])
    assert broker.lag(group, topic) == 1
    assert broker.lag("another " + group, topic) == 21


def test_to_ask_for_the_lag_disturbs_no_member(
    broker: Broker, producer: Producer, join: Join, topic: str, group: str
) -> None:
    consumer = join()
    producer.send(topic, [1])
    receive(consumer, 1)
    taken = []
    for number in range(2, 5):
        broker.lag(group, topic)
        started = time.monotonic()
        producer.send(topic, [number])
        assert number in ids(receive(consumer, 1))
        taken.append(time.monotonic() - started)
    assert min(taken) < 2, "a rebalance takes three seconds"
