"""Thousands of bad messages in both topics: each is kept once, and no scenario is delayed."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.fuzz import messages
from tests.support.cluster import SAMPLE_FRAMES, Cluster
from tests.support.consuming import partitions, settled
from tests.support.processes import eventually, is_gone
from vidan.broker import connect
from vidan.broker.messages import ORCHESTRATORS_GROUP, RETRY_TOPIC, RUNNERS_GROUP, SCENARIOS_TOPIC
from vidan.domain.status import Status

SEED = int(os.environ.get("FUZZ_SEED", "1"))
COUNT = int(os.environ.get("FUZZ_MESSAGES", "10000"))
PORTION = 2000
"""Messages sent at once to an embedded broker, which keeps the last 5 MB of a partition."""
GROUPS = {SCENARIOS_TOPIC: RUNNERS_GROUP, RETRY_TOPIC: ORCHESTRATORS_GROUP}


@pytest.mark.slow
def test_bad_messages_are_kept_once_and_stop_no_process(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(cluster.settings).create_topics(4, 1)
    orchestrator = cluster.orchestrator()
    cluster.supervisor(slots=2)
    pid = cluster.worker_pid()
    long = cluster.create(task="count", params={"model": "trial:slow"})
    beat = "SELECT lease_until FROM workers WHERE name = 'w'"
    before = cluster.query(beat)[0]["lease_until"]

    begin = {topic: _ends(cluster, topic) for topic in GROUPS}
    bad, more = _send(cluster, begin)
    sent = time.monotonic()
    among = [cluster.create(task="add", params={"a": number}) for number in range(20)]
    assert [cluster.wait(one).result for one in among] == [number + 1 for number in range(20)]

    def kept() -> Counter[str]:
        return _kept(cluster, begin)

    assert eventually(lambda: kept() >= bad, 120), (kept(), bad, cluster.log())
    with capsys.disabled():
        seconds = time.monotonic() - sent
        print(f"\nseed {SEED}: {bad.total()} dead letters, the last {seconds:.1f} s after the send")
    assert eventually(lambda: _lag(cluster) == 0, 60), _lag(cluster)

    after = cluster.create(task="add", params={"a": 41})
    assert cluster.wait(after).result == 42
    scenario = cluster.wait(long)
    assert scenario.status is Status.COMPLETED, scenario.error
    assert scenario.result == {"frames": SAMPLE_FRAMES}
    assert (scenario.attempts, scenario.crashes) == (0, 0)
    assert cluster.query(beat)[0]["lease_until"] > before
    assert [cluster.worker_pid(), orchestrator.poll(), is_gone(pid)] == [pid, None, False]
    assert bad <= kept() <= bad + more, (kept(), bad, more)


@pytest.mark.slow
@pytest.mark.parametrize("broker_kind", [pytest.param("kafka", marks=pytest.mark.kafka)])
def test_messages_that_are_received_again_are_not_kept_again(cluster: Cluster) -> None:
    """The offsets of both groups are set back, as if none had been committed.

    The embedded broker does not allow that.
    """
    connect(cluster.settings).create_topics(4, 1)
    cluster.orchestrator()
    cluster.supervisor()
    begin = {topic: _ends(cluster, topic) for topic in GROUPS}  # other tests have used the topics
    bad, more = _send(cluster, begin, 500)
    assert eventually(lambda: _kept(cluster, begin) >= bad, 60), cluster.log()
    assert eventually(lambda: _lag(cluster) == 0, 60), _lag(cluster)
    kept = _kept(cluster, begin)
    assert bad <= kept <= bad + more, (kept, bad, more)
    cluster.end_processes()
    for topic, group in GROUPS.items():
        assert eventually(lambda: _start_over(cluster, begin[topic], group), 30)  # noqa: B023
    assert _lag(cluster) > 0

    cluster.orchestrator()
    cluster.supervisor("again")
    assert eventually(lambda: _lag(cluster) == 0, 60), _lag(cluster)
    assert _kept(cluster, begin) == kept


def _send(
    cluster: Cluster, begin: dict[str, list[TopicPartition]], count: int = COUNT
) -> tuple[Counter[str], Counter[str]]:
    """Send the messages to the topics in turn, a portion at once.

    Returns, for each topic, the number of bad messages, and the number of messages that it has in
    excess: on a busy machine a client may send one again, and an embedded broker keeps it twice.
    """
    producer = Producer(
        {
            "bootstrap.servers": cluster.settings.bootstrap_servers(),
            "message.max.bytes": 2_000_000,
            "log_level": 0,
        }
    )
    bad: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    lost: list[str] = []
    embedded = cluster.settings.embedded()
    for number, message in enumerate(messages.make(SEED, count, any_time=embedded)):
        if embedded and number and number % PORTION == 0:
            assert producer.flush(60) == 0
            assert eventually(lambda: _lag(cluster) == 0, 120), _lag(cluster)
        topic = list(GROUPS)[number % 2]
        bad[topic] += message.bad
        sent[topic] += 1
        while True:
            try:
                producer.produce(
                    topic,
                    message.value,
                    message.key,
                    headers=message.headers,
                    timestamp=message.timestamp_ms,
                    on_delivery=lambda error, _: lost.append(str(error)) if error else None,
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    assert lost == []
    more: Counter[str] = Counter()
    for topic, places in begin.items():
        ends = {one.partition: one.offset for one in _ends(cluster, topic)}
        more[topic] = sum(ends[one.partition] - one.offset for one in places) - sent[topic]
    return bad, more


def _kept(cluster: Cluster, begin: dict[str, list[TopicPartition]]) -> Counter[str]:
    """Count the dead letters of each topic from `begin` on.

    Earlier messages are of other tests, whose processes may have been killed before they committed
    their offsets, so that these messages are received here.
    """
    places = {(topic, one.partition): one.offset for topic in begin for one in begin[topic]}
    letters = cluster.query('SELECT topic, partition, "offset" FROM dead_letters')
    found = [(row["topic"], row["partition"], row["offset"]) for row in letters]
    assert len(set(found)) == len(found), "a message was kept twice"
    return Counter(topic for topic, part, offset in found if offset >= places[topic, part])


def _reader(cluster: Cluster, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": cluster.settings.bootstrap_servers(),
            "group.id": group,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )


def _places(reader: Consumer, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for partition in partitions(reader, topic)]


def _watermarks(reader: Consumer, place: TopicPartition) -> tuple[int, int]:
    found: tuple[int, int] = settled(lambda: reader.get_watermark_offsets(place, timeout=10))
    return found


def _lag(cluster: Cluster) -> int:
    lag = 0
    for topic, group in GROUPS.items():
        reader = _reader(cluster, group)
        try:
            places = _places(reader, topic)
            for place in settled(lambda: reader.committed(places, timeout=10)):  # noqa: B023
                low, high = _watermarks(reader, place)
                lag += high - max(low, place.offset)
        finally:
            reader.close()
    return lag


def _ends(cluster: Cluster, topic: str) -> list[TopicPartition]:
    """Return the present end of each partition."""
    reader = _reader(cluster, "looking")
    try:
        return [
            TopicPartition(topic, one.partition, _watermarks(reader, one)[1])
            for one in _places(reader, topic)
        ]
    finally:
        reader.close()


def _start_over(cluster: Cluster, places: list[TopicPartition], group: str) -> bool:
    """Set the offsets of a group back; returns False while dead members still belong to it."""
    reader = _reader(cluster, group)
    try:
        reader.commit(offsets=places, asynchronous=False)
    except KafkaException:
        return False
    finally:
        reader.close()
    return True
