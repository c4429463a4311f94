"""Events of retries are sent, whatever error an earlier one met."""

from __future__ import annotations

from typing import Any

from tests.support.processes import eventually
from vidan.errors import UsageError
from vidan.worker.retry_events import RetryEvents


class Sends:
    """A producer whose first sending fails, as when a file that its settings name has gone."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.tries = 0

    def send(self, _topic: str, ids: list[int]) -> list[int]:
        self.tries += 1
        if self.tries == 1:
            raise UsageError("no such file: ca.pem")
        self.sent += ids
        return []


def test_an_error_does_not_end_them() -> None:
    producer: Any = Sends()
    events = RetryEvents(producer)
    events.add(1)
    assert eventually(lambda: producer.tries == 1)
    events.add(2)
    events.close()
    assert producer.sent == [2]
