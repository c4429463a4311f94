"""The librdkafka settings of vidan's clients: its own, the user's, and those that stay fixed."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException

from vidan.errors import UsageError

COMMON: Mapping[str, Any] = {
    "client.id": "vidan",
    # A broker that was restarted is found again within two seconds (librdkafka: ten).
    "reconnect.backoff.max.ms": 2000,
    # Topics and partitions made later are found within ten seconds (librdkafka: five minutes).
    "topic.metadata.refresh.interval.ms": 10_000,
}

PRODUCER: Mapping[str, Any] = {
    "delivery.timeout.ms": 3000,
    # One announcement goes at once; of many, those that wait meanwhile go together all the same.
    "linger.ms": 0,
}

CONSUMER: Mapping[str, Any] = {
    "auto.offset.reset": "earliest",
    # A worker that died gives its partitions up after six seconds, the least that Kafka allows: no
    # run is tied to a partition, so that one taken too early costs nothing.
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 2000,
    # Messages are tiny, and what was fetched ahead is dropped at each pause: fetch little ahead.
    "queued.min.messages": 1000,
    # By default a second: behind the announcements of a burst, new ones would wait for so long.
    "fetch.queue.backoff.ms": 10,
    "max.partition.fetch.bytes": 65_536,
    # A partition that was paused is fetched again only after the request under way: this bounds it.
    "fetch.wait.max.ms": 100,
}

FIXED_PRODUCER: Mapping[str, str] = {"acks": "all", "enable.idempotence": "true"}
FIXED_CONSUMER: Mapping[str, str] = {
    "enable.auto.commit": "false",
    "enable.partition.eof": "false",
    # Members keep the partitions that they have while others come and go, and how newly assigned
    # partitions are taken (incrementally) depends on it.
    "partition.assignment.strategy": "cooperative-sticky",
}
"""What the protocol stands on: an offset is committed after the claim, never by itself."""

_FIXED: Mapping[str, str | None] = {
    **FIXED_PRODUCER,
    **FIXED_CONSUMER,
    "request.required.acks": "all",
    "group.id": None,  # one name for each of the two groups, and no other
    "transactional.id": None,
}

_ALIASES: Mapping[str, str] = {
    "log.level": "log_level",  # the only one with an underscore in its name
    "message.timeout.ms": "delivery.timeout.ms",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
}
"""Other names of settings that have a default here, so that a user's value replaces it."""

_KIP_848 = ("session.timeout.ms", "partition.assignment.strategy", "heartbeat.interval.ms")
"""Not the client's to set when the group runs by the protocol of KIP-848."""


class LibraryLog:
    """Takes librdkafka's own log lines down to DEBUG, whatever level they claim.

    It writes several for each attempt to reach a broker. What a reader needs to know is said once,
    by the clients, in `vidan.broker`.
    """

    _log = logging.getLogger("vidan.broker.librdkafka")

    def log(self, _level: int, message: str, *parts: object) -> None:
        """Called by confluent-kafka with librdkafka's level, format and parts."""
        self._log.debug(message, *parts)


def given(settings: Mapping[str, str]) -> dict[str, str]:
    """The user's settings, without the address. Raises UsageError for one that stays fixed."""
    chosen = {}
    for name, value in settings.items():
        if name in ("bootstrap.servers", "metadata.broker.list"):
            continue  # followed by the clients themselves, since it can change
        if name in _FIXED:
            if _same(value, _FIXED[name]):
                continue
            fixed = _FIXED[name]
            raise UsageError(
                f"{variable(name)} can't be set: {name} belongs to vidan's protocol"
                + (f", where it is {fixed}" if fixed else ""),
                hint=f"unset {variable(name)}",
            )
        chosen[_ALIASES.get(name, name)] = value
    return chosen


def consumer_options(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a consumer is built with, but for address, group and callbacks."""
    options = {**COMMON, **CONSUMER, **chosen, **FIXED_CONSUMER}
    if chosen.get("group.protocol", "classic") != "classic":
        for name in _KIP_848:
            if name not in chosen:
                options.pop(name, None)
    return options


def producer_options(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a producer is built with, but for address and callbacks."""
    return {**COMMON, **PRODUCER, **chosen, **FIXED_PRODUCER}


def refused(error: Exception, chosen: Mapping[str, Any]) -> UsageError:
    """The error of librdkafka about a setting, told by the variable that it came from."""
    reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    reason = " ".join(reason.split())
    named = [name for name in chosen if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", reason)]
    if not named and "SASL" in reason:
        named = [name for name in chosen if name.startswith("sasl.mechanism")] or [
            name for name in chosen if name == "security.protocol"
        ]
    variables = ", ".join(map(variable, named or sorted(chosen)))
    return UsageError(
        f"a Kafka setting is wrong ({variables}): {reason}",
        hint="the names and values are librdkafka's: see its CONFIGURATION.md",
    )


def variable(name: str) -> str:
    """The environment variable of a librdkafka setting."""
    if name == "bootstrap.servers":
        return "KAFKA_BOOTSTRAP_SERVERS"
    return "VIDAN_KAFKA_" + name.upper().replace(".", "_")


def _same(value: str, fixed: str | None) -> bool:
    return value.lower() in (("all", "-1") if fixed == "all" else (fixed,))
