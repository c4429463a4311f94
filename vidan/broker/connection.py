"""What Kafka's clients share: where the broker is, whether it is well, how a client is built."""

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
"""Seconds between two looks at the address."""

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
"""Errors of one connection or message. Whether the broker is gone is told by _ALL_BROKERS_DOWN."""

_TELLS_NO_REASON = (_PASSING | {KafkaError._ALL_BROKERS_DOWN}) - {
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
}

_MENDED_BY_ANSWER = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError.UNKNOWN_TOPIC_OR_PART})

Client = TypeVar("Client")


class Address:
    """Where the broker is, asked again about once a second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: str | None = None
        self._asked = float("-inf")

    def current(self) -> str | None:
        """host:port[,…], or None while no broker is known."""
        now = time.monotonic()
        if now - self._asked >= RECHECK:
            self._known = self._settings.bootstrap_servers()
            self._asked = now
        return self._known


class Health:
    """Says what is wrong with the broker once per change, however often it is met."""

    def __init__(self, who: str, *, level: int = logging.WARNING) -> None:
        self.who = who
        self._level = level
        self.reason = "no answer"
        self._met: set[int] = set()

    @property
    def down(self) -> bool:
        """No broker could be reached, and none has answered since."""
        return KafkaError._ALL_BROKERS_DOWN in self._met

    @property
    def ill(self) -> bool:
        """Something was said that has not been taken back."""
        return bool(self._met)

    def note(self, error: KafkaError) -> None:
        """An error that a client or an operation of it met."""
        code = error.code()
        if code not in _TELLS_NO_REASON:
            self.reason = error.str()
        if code in _PASSING:
            log.debug("%s: %s", self.who, error.str())
        elif code == KafkaError._ALL_BROKERS_DOWN:
            self._lost(self.reason)
        else:
            self._say(code, error.str())

    def no_address(self) -> None:
        """No broker is known: the embedded one has ended, or has not been started yet."""
        self._lost("no broker is known")

    def well(self) -> None:
        """A message went or came."""
        self._mended(frozenset(self._met))

    def answered(self) -> None:
        """The broker answered a question: it is there, which says nothing about permissions."""
        self._mended(_MENDED_BY_ANSWER)

    def _lost(self, reason: str) -> None:
        self._say(KafkaError._ALL_BROKERS_DOWN, f"Kafka can't be reached: {reason}")

    def _say(self, code: int, text: str) -> None:
        if code not in self._met:
            self._met.add(code)
            log.log(self._level, "%s: %s", self.who, text)

    def _mended(self, codes: frozenset[int]) -> None:
        if self._met & codes:
            self._met -= codes
            log.info("%s: Kafka answers again", self.who)


def is_fatal(error: KafkaError) -> bool:
    """The client that met it will never work again."""
    return error.fatal() or error.code() == KafkaError._FATAL


def build(
    kind: Callable[..., Client],
    settings: Mapping[str, Any],
    note: Callable[[KafkaError], None],
    chosen: Mapping[str, Any],
) -> Client:
    """A client of librdkafka whose errors go to `note` and whose own log lines become DEBUG.

    Raises UsageError if a setting is wrong; `chosen` are the ones that the user gave.
    """
    try:
        return kind({**settings, "error_cb": note}, logger=options.LibraryLog())
    except (KafkaException, TypeError, ValueError) as error:
        raise options.refused(error, chosen) from error
