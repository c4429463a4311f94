"""What Kafka's clients share: the broker's address, a log of its troubles, building a client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from vidan.broker import options

if TYPE_CHECKING:
    from vidan.config import Settings

log = logging.getLogger("vidan.broker")

RECHECK = 1.0
"""Seconds after which the broker's address is read again."""

_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
    }
)
"""Errors of one connection or one message; only _ALL_BROKERS_DOWN means that no broker is left."""

_WITHOUT_REASON = (_PASSING | {KafkaError._ALL_BROKERS_DOWN}) - {
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
}
"""Errors whose text does not say why the broker can't be reached."""

_SETTLING = frozenset(
    {
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.LISTENER_NOT_FOUND,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.REBOOTSTRAP_REQUIRED,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.STALE_BROKER_EPOCH,
        KafkaError.STALE_CTRL_EPOCH,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError._IN_PROGRESS,
        KafkaError._PREV_IN_PROGRESS,
        KafkaError._RETRY,
        KafkaError._UNKNOWN_BROKER,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._WAIT_CACHE,
        KafkaError._WAIT_COORD,
    }
)
"""Errors of a cluster that elects a leader, moves a group or spreads a new topic: they pass."""

_CLEARED_BY_ANSWER = _SETTLING | {KafkaError._ALL_BROKERS_DOWN}
"""Troubles that are over once the broker has answered any request."""

Client = TypeVar("Client")


class Address:
    """The broker's address, read again about once a second, since the embedded broker may move."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: str | None = None
        self._asked = float("-inf")

    def current(self) -> str | None:
        """Return host:port[,…], or None while no broker is known."""
        now = time.monotonic()
        if now - self._asked >= RECHECK:
            self._known = self._settings.bootstrap_servers()
            self._asked = now
        return self._known


class Health:
    """Logs trouble with the broker, and its end, once per change, however often errors repeat."""

    def __init__(self, client: str, *, level: int = logging.WARNING) -> None:
        self.client = client
        self._level = level
        self.reason = "no answer"
        self._troubles: set[int] = set()
        """The codes of errors that were logged and are not over."""

    @property
    def down(self) -> bool:
        """Whether no broker could be reached, and none has answered since."""
        return KafkaError._ALL_BROKERS_DOWN in self._troubles

    @property
    def in_trouble(self) -> bool:
        """Whether trouble was logged that is not over."""
        return bool(self._troubles)

    def note(self, error: KafkaError) -> None:
        """Take note of an error of the client or of one of its operations."""
        code = error.code()
        if code not in _WITHOUT_REASON:
            self.reason = error.str()
        if code in _PASSING:
            log.debug("%s: %s", self.client, error.str())
        elif code == KafkaError._ALL_BROKERS_DOWN:
            self._unreachable(self.reason)
        else:
            self._begin(code, error.str())

    def no_address(self) -> None:
        """Note that no broker is known: the embedded one has ended, or has not started yet."""
        self._unreachable("no broker is known")

    def delivered(self) -> None:
        """Note that a message was delivered or received: all troubles are over."""
        self._end(frozenset(self._troubles))

    def answered(self) -> None:
        """Note that the broker answered a request: it runs, but may refuse for want of a right."""
        self._end(_CLEARED_BY_ANSWER)

    def _unreachable(self, reason: str) -> None:
        self._begin(KafkaError._ALL_BROKERS_DOWN, f"Kafka can't be reached: {reason}")

    def _begin(self, code: int, text: str) -> None:
        if code not in self._troubles:
            self._troubles.add(code)
            log.log(self._level, "%s: %s", self.client, text)

    def _end(self, codes: frozenset[int]) -> None:
        if self._troubles & codes:
            self._troubles -= codes
            log.info("%s: Kafka answers again", self.client)


def is_fatal(error: KafkaError) -> bool:
    """Whether the client that met the error will never work again."""
    return error.fatal() or error.code() == KafkaError._FATAL


def is_passing(error: KafkaError) -> bool:
    """Whether the same request may succeed soon. Kafka marks few such errors as retriable."""
    return error.retriable() or is_unreachable(error) or error.code() in _SETTLING


def is_unreachable(error: KafkaError) -> bool:
    """Whether no broker answered, which says nothing about the request."""
    return error.code() in _PASSING or error.code() == KafkaError._ALL_BROKERS_DOWN


def build(
    kind: Callable[..., Client],
    settings: Mapping[str, Any],
    note: Callable[[KafkaError], None],
    chosen: Mapping[str, Any],
) -> Client:
    """Return a librdkafka client that calls `note` with its errors and logs at DEBUG.

    Raises UsageError for a wrong setting; `chosen` are the settings that the user gave.
    """
    try:
        return kind({**settings, "error_cb": note}, logger=options.LibraryLog())
    except (KafkaException, TypeError, ValueError) as error:
        raise options.refused(error, chosen) from error
