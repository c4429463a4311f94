"""A Kafka cluster: its clients, its topics, and questions to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from vidan.broker import messages, options
from vidan.broker.connection import Address, Health, build, is_passing, is_unreachable
from vidan.broker.consumer import KafkaConsumer
from vidan.broker.producer import KafkaProducer
from vidan.errors import BrokerUnavailable, UsageError

if TYPE_CHECKING:
    from confluent_kafka.admin._metadata import TopicMetadata

    from vidan.config import Settings

T = TypeVar("T")

ANSWER_LIMIT = 4.5
"""Longest time, in seconds, that all requests of one operation may take together."""

SURELY_DOWN = 1.5
"""Seconds after which a broker that refuses connections counts as unavailable. A host name may have
several addresses, which librdkafka tries one after the other.
"""

PAUSE = 0.1
"""Seconds between two tries of a request."""

SAID_HINT = "see the log of Kafka, and whether vidan's user has the right"
HINT = "is it up? set KAFKA_BOOTSTRAP_SERVERS, or start the embedded stack with `vidan up`"


class KafkaBroker:
    """The cluster at the address that the settings name. See `base.Broker`."""

    def __init__(self, settings: Settings) -> None:
        """Check the librdkafka settings (raises UsageError). Opens no connection."""
        self._settings = settings
        self._chosen = options.given(settings.kafka)
        check(self._chosen)

    def producer(self) -> KafkaProducer:
        """See `base.Broker`."""
        return KafkaProducer(Address(self._settings), self._chosen)

    def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        """See `base.Broker`."""
        return KafkaConsumer(Address(self._settings), group, topics, self._chosen)

    def topics(self) -> dict[str, int]:
        """See `base.Broker`. Kafka's internal topics are left out."""
        return Administration(self._settings, self._chosen).topics()

    def lag(self, group: str, topic: str) -> int:
        """See `base.Broker`."""
        return Administration(self._settings, self._chosen).lag(group, topic)

    def create_topics(self, partitions: int, replication: int) -> list[str]:
        """See `base.Broker`."""
        require_positive(partitions, replication)
        administration = Administration(self._settings, self._chosen)
        existing = administration.topics()
        missing = [topic for topic in messages.TOPICS if topic not in existing]
        return [t for t in missing if administration.create(t, partitions, replication)]


class Administration:
    """Requests about topics and groups; ANSWER_LIMIT bounds all requests of one object together.

    A request that meets an error which passes, such as a leader being elected, is made again until
    then. Each raises BrokerUnavailable, which names the last error, if that doesn't help.
    """

    def __init__(self, settings: Settings, chosen: Mapping[str, Any]) -> None:
        """Raise BrokerUnavailable if no address is known."""
        self._started = time.monotonic()
        self._deadline = self._started + ANSWER_LIMIT
        address = settings.bootstrap_servers()
        if address is None:
            raise BrokerUnavailable("no Kafka broker is known", hint=HINT)
        self._address = address
        self._chosen = chosen
        self._health = Health("administration", level=logging.DEBUG)  # errors are raised instead
        connection = {**options.COMMON, **chosen, "bootstrap.servers": address}
        self._client: AdminClient = build(AdminClient, connection, self._health.note, chosen)

    def topics(self) -> dict[str, int]:
        """Return each topic, but internal ones, with its partitions. Raises BrokerUnavailable."""
        return self._asking(self._topics)

    def lag(self, group: str, topic: str) -> int:
        """See `base.Broker`. Asks by a consumer that never joins, so it disturbs no member."""
        settings = {
            **options.consumer_options(self._chosen),
            "group.id": group,
            "bootstrap.servers": self._address,
        }
        consumer = build(Consumer, settings, self._health.note, self._chosen)
        try:
            return self._asking(lambda: self._lag(consumer, topic))
        finally:
            consumer.close()

    def create(self, topic: str, partitions: int, replication: int) -> bool:
        """Create a topic; returns False if another client has created it in the meantime.

        Raises BrokerUnavailable, and UsageError if the broker refuses.
        """
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replication)
        asked = 0

        def ask() -> bool:
            nonlocal asked
            asked += 1
            left = self._left()
            try:
                self._client.create_topics([new], request_timeout=left)[topic].result(left + 0.2)
            except TimeoutError:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return asked > 1  # the answer to an earlier try may have been lost
                if is_passing(reason):
                    raise
                raise UsageError(
                    f"Kafka refused to create topic {topic}: {reason.str()}",
                    hint="give --partitions and --replication that the cluster allows",
                ) from error
            return True

        return self._asking(ask)

    def touch(self, topic: str) -> None:
        """Ask for a topic; a broker that creates topics on demand creates it.

        Raises BrokerUnavailable.
        """
        self._asking(lambda: _raise(self._found(topic)[topic].error))

    def _topics(self, *, needed: Collection[str] = messages.TOPICS) -> dict[str, int]:
        found = self._found()
        for topic in needed:
            _raise(found[topic].error if topic in found else None)
        return {
            name: len(topic.partitions)
            for name, topic in sorted(found.items())
            if not name.startswith("__")
        }

    def _found(self, *only: str) -> dict[str, TopicMetadata]:
        # A short wait: between two tries error_cb gives the reason.
        return self._client.list_topics(*only, timeout=min(0.5, self._left())).topics

    def _lag(self, consumer: Consumer, topic: str) -> int:
        count = self._topics(needed=[topic]).get(topic, 0)
        places = [TopicPartition(topic, number) for number in range(count)]
        committed = consumer.committed(places, timeout=self._left()) if places else []
        behind = 0
        for place in committed:
            _raise(place.error)
            low, high = consumer.get_watermark_offsets(place, timeout=self._left())
            behind += max(0, high - max(low, place.offset))
        return behind

    def _asking(self, ask: Callable[[], T]) -> T:
        """Return `ask()`, called again after an error that passes. Raises BrokerUnavailable."""
        said: KafkaError | None = None  # the last answer of a broker
        while True:
            try:
                return ask()
            except KafkaException as error:
                last: KafkaError = error.args[0]
                self._client.poll(0)  # calls error_cb, which may know more
                said = said if is_unreachable(last) else last
                if not is_passing(last) or self._is_over():
                    raise self._unavailable(None if self._health.down else said) from error
            time.sleep(PAUSE)

    def _is_over(self) -> bool:
        """Whether another try would come too late or, without a broker, would be useless."""
        now = time.monotonic()
        return now + PAUSE >= self._deadline or (
            self._health.down and now - self._started > SURELY_DOWN
        )

    def _left(self) -> float:
        return max(0.1, self._deadline - time.monotonic())

    def _unavailable(self, said: KafkaError | None) -> BrokerUnavailable:
        if said is None:
            return BrokerUnavailable(
                f"Kafka at {self._address} can't be reached: {self._health.reason}", hint=HINT
            )
        return BrokerUnavailable(
            f"Kafka at {self._address} doesn't serve the request: {said.str()}", hint=SAID_HINT
        )


def _raise(error: KafkaError | None) -> None:
    """Raise the error of one topic or partition in an answer, if there is one."""
    if error is not None:
        raise KafkaException(error)


def require_positive(partitions: int, replication: int) -> None:
    """Raise UsageError for a number of partitions or replicas that no topic can have."""
    for name, number in (("partitions", partitions), ("replication", replication)):
        if number < 1:
            raise UsageError(f"{name} has to be at least 1, not {number}")


def check(chosen: Mapping[str, Any]) -> None:
    """Raise UsageError, naming the variable, if librdkafka refuses these settings.

    Builds both kinds of client without an address, which takes two milliseconds and opens no
    connection.
    """

    def ignore(error: KafkaError) -> None:
        pass

    build(Producer, options.producer_options(chosen), ignore, chosen)
    consumer = {**options.consumer_options(chosen), "group.id": messages.RUNNERS_GROUP}
    build(Consumer, consumer, ignore, chosen).close()
