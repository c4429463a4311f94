"""What comes from a topic and can't be used goes to the dead letters; the partition moves on."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from vidan.broker.base import Consumer, Received
from vidan.db.session import Database
from vidan.messages import decode
from vidan.services import dead_letters

log = logging.getLogger("vidan.broker")


def usable(database: Database, received: Iterable[Received]) -> list[int]:
    """Return the scenario ids that messages carry; keep the others as dead letters.

    Raises DatabaseUnavailable.
    """
    ids = []
    for message in received:
        try:
            ids.append(decode(message.value).scenario_id)
        except ValueError as error:
            log.warning("dead letter from %s/%d: %s", message.topic, message.partition, error)
            with database.begin() as connection:
                dead_letters.add(
                    connection,
                    topic=message.topic,
                    partition=message.partition,
                    offset=message.offset,
                    timestamp_ms=message.timestamp_ms,
                    key=message.key,
                    payload=message.value,
                    error=str(error),
                )
    return ids


def rewind(consumer: Consumer, received: Iterable[Received]) -> None:
    """Receive messages again that could not be dealt with: from the first of each partition."""
    first: dict[tuple[str, int], Received] = {}
    for message in received:
        first.setdefault((message.topic, message.partition), message)
    for message in first.values():
        consumer.rewind(message)
