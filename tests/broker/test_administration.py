"""Questions to Kafka while it elects leaders, moves groups or spreads a new topic."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from vidan.broker import kafka
from vidan.broker.kafka import Administration
from vidan.config import Settings
from vidan.errors import BrokerUnavailable, UsageError

SETTLING = [
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_CONTROLLER,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._WAIT_COORD,
]
FOREVER = 10**6


class PlayedKafka:
    """Both clients of an administration, with errors to come: `place` to [code, times]."""

    def __init__(self) -> None:
        self.errors: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.health: Callable[[KafkaError], None] = lambda _: None

    def build(self, _kind: object, _settings: object, note: Any, _chosen: object) -> PlayedKafka:
        self.health = note
        return self

    def _next(self, place: str) -> KafkaError | None:
        self.asked.append(place)
        code, left = self.errors.get(place, [0, 0])
        if left == 0:
            return None
        self.errors[place] = [code, left - 1]
        return KafkaError(code)

    def _raise(self, place: str) -> None:
        if error := self._next(place):
            raise KafkaException(error)

    def poll(self, _timeout: float) -> None:
        pass

    def close(self) -> None:
        self.asked.append("close")

    def list_topics(self, *only: str, timeout: float) -> Any:
        assert timeout > 0
        self._raise("list_topics")
        topic = SimpleNamespace(partitions={0: None, 1: None}, error=self._next("topic"))
        return SimpleNamespace(topics={"scenarios": topic, **dict.fromkeys(only, topic)})

    def committed(self, places: list[TopicPartition], timeout: float) -> list[Any]:
        assert timeout > 0
        self._raise("committed")
        return [SimpleNamespace(error=self._next("partition"), offset=3) for _ in places]

    def get_watermark_offsets(self, _place: object, timeout: float) -> tuple[int, int]:
        assert timeout > 0
        self._raise("get_watermark_offsets")
        return 0, 10

    def create_topics(self, new: list[Any], request_timeout: float) -> dict[str, Future[None]]:
        assert request_timeout > 0
        answer: Future[None] = Future()
        if error := self._next("create_topics"):
            answer.set_exception(KafkaException(error))
        else:
            answer.set_result(None)
        return {new[0].topic: answer}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedKafka:
    server = PlayedKafka()
    monkeypatch.setattr(kafka, "build", server.build)
    monkeypatch.setattr(kafka, "PAUSE", 0.001)
    return server


@pytest.fixture
def administration(played: PlayedKafka, tmp_path: Path) -> Administration:
    settings = Settings(home=tmp_path, kafka={"bootstrap.servers": "broker:9092"})
    return Administration(settings, {})


ASKS: dict[str, Callable[[Administration], object]] = {
    "list_topics": lambda one: one.topics(),
    "topic": lambda one: one.lag("group", "scenarios"),
    "committed": lambda one: one.lag("group", "scenarios"),
    "partition": lambda one: one.lag("group", "scenarios"),
    "get_watermark_offsets": lambda one: one.lag("group", "scenarios"),
    "create_topics": lambda one: one.create("scenarios", 2, 1),
    "touch": lambda one: one.touch("scenarios"),
}
ANSWERS: dict[str, object] = {"list_topics": {"scenarios": 2}, "create_topics": True, "touch": None}
LAG = 14


@pytest.mark.parametrize("code", SETTLING)
@pytest.mark.parametrize("place", ASKS)
def test_a_question_is_asked_again_until_kafka_has_settled(
    place: str, code: int, played: PlayedKafka, administration: Administration
) -> None:
    asked = {"touch": "topic"}.get(place, place)
    played.errors[asked] = [code, 3]
    assert ASKS[place](administration) == ANSWERS.get(place, LAG)
    assert played.errors[asked] == [code, 0]


@pytest.mark.parametrize("place", ASKS)
def test_one_that_never_settles_is_named_at_the_deadline(
    place: str, played: PlayedKafka, administration: Administration
) -> None:
    administration._deadline = time.monotonic() + 0.2
    played.errors[{"touch": "topic"}.get(place, place)] = [KafkaError.LEADER_NOT_AVAILABLE, FOREVER]
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"broker:9092.*Leader not available") as caught:
        ASKS[place](administration)
    assert "reached" not in str(caught.value)
    assert time.monotonic() - began < 5


def test_the_last_answer_is_named_though_the_last_try_had_none(
    played: PlayedKafka, administration: Administration
) -> None:
    administration._deadline = time.monotonic() + 0.2
    played.errors["committed"] = [KafkaError.COORDINATOR_LOAD_IN_PROGRESS, 3]
    played.errors["get_watermark_offsets"] = [KafkaError._TIMED_OUT, FOREVER]
    with pytest.raises(BrokerUnavailable, match="Coordinator load in progress"):
        administration.lag("group", "scenarios")


def test_a_broker_that_is_gone_is_named_as_that(
    played: PlayedKafka, administration: Administration
) -> None:
    administration._deadline = time.monotonic() + 0.2
    played.errors["committed"] = [KafkaError.NOT_COORDINATOR, 1]
    played.errors["get_watermark_offsets"] = [KafkaError._TRANSPORT, FOREVER]
    played.health(KafkaError(KafkaError._TRANSPORT, "Connection refused"))
    played.health(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    with pytest.raises(BrokerUnavailable, match="can't be reached: Connection refused"):
        administration.lag("group", "scenarios")


@pytest.mark.parametrize("place", [place for place in ASKS if place != "create_topics"])
def test_a_refusal_is_told_at_once(
    place: str, played: PlayedKafka, administration: Administration
) -> None:
    played.errors[{"touch": "topic"}.get(place, place)] = [
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        FOREVER,
    ]
    with pytest.raises(BrokerUnavailable, match="authorization failed"):
        ASKS[place](administration)
    assert played.asked.count("list_topics") == 1


def test_a_topic_that_an_unanswered_try_created_counts_as_created(
    played: PlayedKafka, administration: Administration
) -> None:
    played.errors["create_topics"] = [KafkaError.TOPIC_ALREADY_EXISTS, 1]
    assert administration.create("scenarios", 2, 1) is False

    def create_topics(new: list[Any], request_timeout: float) -> dict[str, Future[None]]:
        played.errors["create_topics"] = [codes.pop(0), 1]
        return PlayedKafka.create_topics(played, new, request_timeout)

    codes = [KafkaError._TIMED_OUT, KafkaError.TOPIC_ALREADY_EXISTS, KafkaError.INVALID_PARTITIONS]
    administration._client.create_topics = create_topics  # type: ignore[method-assign,assignment]
    assert administration.create("scenarios", 2, 1) is True
    with pytest.raises(UsageError, match="refused to create topic scenarios"):
        administration.create("scenarios", 2, 1)


def test_another_topic_in_trouble_disturbs_no_question(
    played: PlayedKafka, administration: Administration
) -> None:
    played.errors["topic"] = [KafkaError.UNKNOWN_TOPIC_OR_PART, FOREVER]
    assert administration.lag("group", "no-such-topic") == 0
