"""The librdkafka settings of vidan's clients: vidan's defaults, the user's settings, fixed ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException

from vidan.errors import UsageError

COMMON: Mapping[str, Any] = {
    "client.id": "vidan",
    # Find a restarted broker again within two seconds (librdkafka's default: ten).
    "reconnect.backoff.max.ms": 2000,
    # Find new topics and partitions within ten seconds (librdkafka's default: five minutes).
    "topic.metadata.refresh.interval.ms": 10_000,
}

PRODUCER: Mapping[str, Any] = {
    "delivery.timeout.ms": 3000,
    # Send at once; messages that wait while one request is under way still go together.
    "linger.ms": 0,
}

CONSUMER: Mapping[str, Any] = {
    "auto.offset.reset": "earliest",
    # A dead worker loses its partitions after six seconds, the least that Kafka allows. Losing them
    # too early costs nothing, since no run is tied to a partition.
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 2000,
    # Fetch little ahead: messages are tiny, and each pause drops the messages fetched ahead.
    "queued.min.messages": 1000,
    # The default is a second, for which new messages would wait behind a burst.
    "fetch.queue.backoff.ms": 10,
    "max.partition.fetch.bytes": 65_536,
    # Bounds the request under way, which delays the next fetch of a partition that was paused.
    "fetch.wait.max.ms": 100,
}

FIXED_PRODUCER: Mapping[str, str] = {"acks": "all", "enable.idempotence": "true"}
FIXED_CONSUMER: Mapping[str, str] = {
    "enable.auto.commit": "false",
    "enable.partition.eof": "false",
    # Members keep their partitions while others join and leave. The consumer's callbacks, which
    # assign incrementally, depend on it.
    "partition.assignment.strategy": "cooperative-sticky",
}
"""The protocol relies on these: an offset is committed after the claim, never automatically."""

_FIXED: Mapping[str, str | None] = {
    **FIXED_PRODUCER,
    **FIXED_CONSUMER,
    "request.required.acks": "all",
    "group.id": None,  # vidan has one name for each of its two groups
    "transactional.id": None,
}

_ALIASES: Mapping[str, str] = {
    "log.level": "log_level",  # the only setting with an underscore in its name
    "message.timeout.ms": "delivery.timeout.ms",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
}
"""Other names of settings that have a default here: the user's value has to replace the default."""

_KIP_848 = ("session.timeout.ms", "partition.assignment.strategy", "heartbeat.interval.ms")
"""Settings that a client may not set when its group uses the protocol of KIP-848."""


class LibraryLog:
    """Logs librdkafka's own lines at DEBUG, whatever their level.

    librdkafka writes several for each attempt to reach a broker. The clients log each trouble once,
    in `vidan.broker`.
    """

    _log = logging.getLogger("vidan.broker.librdkafka")

    def log(self, _level: int, message: str, *parts: object) -> None:
        """Log a line; called by confluent-kafka with librdkafka's level, format and parts."""
        self._log.debug(message, *parts)


def given(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the user's settings, without the address. Raises UsageError for a fixed setting."""
    chosen = {}
    for name, value in settings.items():
        if name in ("bootstrap.servers", "metadata.broker.list"):
            continue  # the clients read the address themselves, since it can change
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
    """Return all settings of a consumer but its address, group and callbacks."""
    options = {**COMMON, **CONSUMER, **chosen, **FIXED_CONSUMER}
    if chosen.get("group.protocol", "classic") != "classic":
        for name in _KIP_848:
            if name not in chosen:
                options.pop(name, None)
    return options


def producer_options(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a producer but its address and callbacks."""
    return {**COMMON, **PRODUCER, **chosen, **FIXED_PRODUCER}


def refused(error: Exception, chosen: Mapping[str, Any]) -> UsageError:
    """Return librdkafka's error about a setting as one that names the environment variable."""
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
    """Return the environment variable of a librdkafka setting."""
    if name == "bootstrap.servers":
        return "KAFKA_BOOTSTRAP_SERVERS"
    return "VIDAN_KAFKA_" + name.upper().replace(".", "_")


def _same(value: str, fixed: str | None) -> bool:
    return value.lower() in (("all", "-1") if fixed == "all" else (fixed,))
