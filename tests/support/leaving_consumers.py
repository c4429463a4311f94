"""Consumers that leave their group before they have heard of their assignment.

`python -m tests.support.leaving_consumers KIND ADDRESS TOPIC`: each consumer is the only member of
a group of its own. They run in a process of their own, since a client that hangs may keep the GIL.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path

from tests.support.kafka import EmbeddedSettings
from vidan.broker import connect
from vidan.config import Settings

COUNT = 60


def main(kind: str, address: str, topic: str) -> None:
    """Join the groups, wait until the broker has assigned all partitions, leave one by one."""
    settings = Settings(home=Path(), kafka={"bootstrap.servers": address})
    if kind == "embedded":
        settings = EmbeddedSettings(home=Path(), address_file=Path(address))
    broker = connect(settings)
    consumers = [broker.consumer(f"leaving-{uuid.uuid4()}", [topic]) for _ in range(COUNT)]
    for consumer in consumers:
        consumer.poll(0.02)
    time.sleep(4)
    for consumer in consumers:
        consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
