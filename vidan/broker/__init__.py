"""The message broker: Kafka, or the one that the embedded stack hosts.

Importing this loads no Kafka client; `connect` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidan.broker.base import Broker, Consumer, Producer, Raw, Received

if TYPE_CHECKING:
    from vidan.config import Settings

__all__ = ["Broker", "Consumer", "Producer", "Raw", "Received", "connect"]


def connect(settings: Settings) -> Broker:
    """The broker that the settings name. Opens no connection.

    With neither a Kafka address nor a database given, whatever broker is there or comes later can
    only be the embedded stack's. Raises UsageError for a librdkafka setting that is wrong, by the
    name of its variable.
    """
    if settings.database_url is None and "bootstrap.servers" not in settings.kafka:
        from vidan.broker.embedded import EmbeddedBroker

        return EmbeddedBroker(settings)
    from vidan.broker.kafka import KafkaBroker

    return KafkaBroker(settings)
