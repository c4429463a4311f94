"""Sending dead letters to their topics again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vidan.broker.base import Producer, Raw
from vidan.db.session import Database
from vidan.services import dead_letters
from vidan.services.dead_letters import DeadLetter

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
