"""What comes from a topic and can't be used goes to the dead letters; the partition moves on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from vidan.broker.base import Consumer, Producer, Raw, Received
from vidan.broker.messages import decode
from vidan.db.session import Database
from vidan.services import dead_letters
from vidan.services.dead_letters import DeadLetter, NewLetter

log = logging.getLogger("vidan.broker")

STATEMENT_BYTES = 8 << 20
"""So much of dead letters goes into one transaction: far from the statement time-out."""


def scenario_ids(database: Database, received: Iterable[Received]) -> list[int]:
    """Return the scenario ids that messages carry; keep the others as dead letters.

    Raises DatabaseUnavailable.
    """
    ids, letters = [], []
    for message in received:
        try:
            ids.append(decode(message.value).scenario_id)
        except ValueError as error:
            letters.append(_letter(message, str(error)))
    for part in _parts(letters):
        database.retrying(lambda c, part=part: dead_letters.add(c, part))  # type: ignore[misc]
    if letters:
        first = letters[0]
        log.warning(
            "dead letters: %d, the first from %s/%d at %d: %s",
            len(letters), *first.place, first.error,
        )  # fmt: skip
    return ids


def _letter(message: Received, error: str) -> NewLetter:
    return NewLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=message.timestamp_ms,
        key=message.key,
        payload=message.value,
        error=error,
    )


def _parts(letters: Sequence[NewLetter]) -> Iterator[list[NewLetter]]:
    """Cut them so that none is longer than STATEMENT_BYTES, unless it is one letter."""
    part: list[NewLetter] = []
    size = 0
    for letter in letters:
        length = len(letter.key or b"") + len(letter.payload or b"")
        if part and size + length > STATEMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(letter)
        size += length
    if part:
        yield part


def rewind(consumer: Consumer, received: Iterable[Received]) -> None:
    """Receive messages again that could not be dealt with: from the first of each partition."""
    first: dict[tuple[str, int], Received] = {}
    for message in received:
        first.setdefault((message.topic, message.partition), message)
    for message in first.values():
        consumer.rewind(message)


BATCH = 100
"""So many letters are sent, and then removed, at once."""


def letters(database: Database, topic: str | None) -> Iterator[list[DeadLetter]]:
    """Yield the letters that there are now, the newest first, in batches.

    One that comes back meanwhile, as a new letter, is not among them.
    """
    last: int | None = None
    while True:
        with database.begin() as connection:
            page = dead_letters.find(connection, limit=BATCH, after_id=last, topic=topic)
        if not page:
            return
        yield page
        last = page[-1].id


def send_again(
    database: Database, producer: Producer, batch: Sequence[DeadLetter]
) -> list[DeadLetter]:
    """Send letters as they came, and remove those that were delivered; returns these.

    A letter is removed only after its delivery report: cut off in between, it is sent twice.
    """
    failed = set()
    for topic in dict.fromkeys(letter.topic for letter in batch):
        of_topic = [letter for letter in batch if letter.topic == topic]
        raws = [Raw(letter.key, letter.payload) for letter in of_topic]
        failed |= {of_topic[place].id for place in producer.send_raw(topic, raws)}
    sent = [letter for letter in batch if letter.id not in failed]
    if sent:
        database.retrying(lambda c: dead_letters.delete(c, [letter.id for letter in sent]))
    return sent
