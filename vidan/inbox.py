"""Messages that came from a topic: scenario ids or dead letters, and sending dead letters again.

A message that can't be used is kept as a dead letter, so that the partition moves on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from vidan.broker.base import Consumer, Producer, Raw, Received
from vidan.broker.envelope import decode
from vidan.db.session import Database
from vidan.services import dead_letters
from vidan.services.dead_letters import DeadLetter, NewLetter

log = logging.getLogger("vidan.broker")

STATEMENT_BYTES = 8 << 20
"""Most bytes of dead letters that one transaction adds: far from the statement time-out."""
BATCH = 100
"""How many dead letters are sent again, and then removed, at once."""


def scenario_ids(database: Database, received: Iterable[Received]) -> list[int]:
    """Return the scenario ids that messages carry; keep unusable messages as dead letters.

    Raises DatabaseUnavailable.
    """
    ids, unusable = [], []
    for message in received:
        try:
            ids.append(decode(message.value).scenario_id)
        except ValueError as error:
            unusable.append(_new_letter(message, str(error)))
    for part in _in_parts(unusable):
        database.retrying(dead_letters.add, part)
    if unusable:
        first = unusable[0]
        log.warning(
            "dead letters: %d, the first from %s/%d at %d: %s",
            len(unusable), *first.place, first.error,
        )  # fmt: skip
    return ids


def rewind(consumer: Consumer, received: Iterable[Received]) -> None:
    """Receive messages again: rewind each partition to its first one of these messages."""
    first: dict[tuple[str, int], Received] = {}
    for message in received:
        first.setdefault((message.topic, message.partition), message)
    for message in first.values():
        consumer.rewind(message)


def letters(database: Database, topic: str | None) -> Iterator[list[DeadLetter]]:
    """Yield the dead letters that exist now, the newest first, in batches.

    A letter that comes back meanwhile, as a new letter, is not among them.
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
    """Send letters to their topics as they came, remove the delivered ones and return these.

    A letter is removed only after its delivery report: an interrupted call may have sent a letter
    that is still kept, and which is then sent twice.
    """
    failed: set[int] = set()
    for topic in dict.fromkeys(letter.topic for letter in batch):
        of_topic = [letter for letter in batch if letter.topic == topic]
        raws = [Raw(letter.key, letter.payload) for letter in of_topic]
        failed.update(of_topic[place].id for place in producer.send_raw(topic, raws))
    sent = [letter for letter in batch if letter.id not in failed]
    if sent:
        database.retrying(dead_letters.delete, [letter.id for letter in sent])
    return sent


def _new_letter(message: Received, error: str) -> NewLetter:
    return NewLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=message.timestamp_ms,
        key=message.key,
        payload=message.value,
        error=error,
    )


def _in_parts(letters: Sequence[NewLetter]) -> Iterator[list[NewLetter]]:
    """Yield parts of at most STATEMENT_BYTES, except for a single letter that is longer."""
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
