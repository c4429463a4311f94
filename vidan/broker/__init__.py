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
    """Return the broker that the settings name. Opens no connection.

    If they give neither a Kafka address nor a database, it is the embedded stack's, which may start
    later. Raises UsageError for a wrong librdkafka setting, named by its environment variable.
    """
    if settings.database_url is None and "bootstrap.servers" not in settings.kafka:
        from vidan.broker.embedded import EmbeddedBroker

        return EmbeddedBroker(settings)
    from vidan.broker.kafka import KafkaBroker

    return KafkaBroker(settings)
