"""Dead letters: messages that can't be used, kept for people to examine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.errors import NotFoundError
from vidan.protocol import storable


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be used, with its place in its topic and the reason."""

    id: int
    topic: str
    partition: int
    offset: int
    message_at: datetime
    key: bytes | None
    payload: bytes | None
    error: str
    received_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on: bytes as text, with escapes if not UTF-8."""
        return {
            "id": self.id,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "message_at": self.message_at.isoformat(),
            "key": _readable(self.key),
            "payload": _readable(self.payload),
            "error": self.error,
            "received_at": self.received_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class NewLetter:
    """A message that can't be used, and the reason (`error`)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    payload: bytes | None
    error: str

    @property
    def place(self) -> tuple[str, int, int]:
        """The place of the message in its topic."""
        return self.topic, self.partition, self.offset

    def columns(self) -> dict[str, Any]:
        """Return the values of its row.

        One place in a topic may hold two messages, because an embedded broker starts again at
        offset 0; timestamp and digest tell them apart.
        """
        digest = hashlib.sha256((self.key or b"") + b"\x00" + (self.payload or b"")).hexdigest()
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "message_at": _moment(self.timestamp_ms),
            "digest": digest,
            "key": self.key,
            "payload": self.payload,
            "error": self.error,
        }


Before = datetime | timedelta | None
"""Received before a moment, or longer ago than a time span; None: at any time."""

_COLUMNS = 'id, topic, partition, "offset", message_at, key, payload, error, received_at'
_CHOSEN = (
    "id <= :newest AND (CAST(:topic AS text) IS NULL OR topic = :topic)"
    " AND (CAST(:before AS timestamptz) IS NULL OR received_at < :before)"
    " AND (CAST(:age AS interval) IS NULL OR received_at < now() - CAST(:age AS interval))"
)


def add(connection: Connection, letters: Sequence[NewLetter]) -> int:
    """Keep messages that can't be used. Returns how many are new.

    They are inserted in the order of their places, so that two transactions with the same messages
    can't end in a deadlock.
    """
    if not letters:
        return 0
    return connection.execute(
        text(
            'INSERT INTO dead_letters (topic, partition, "offset", message_at, digest, key,'
            " payload, error) VALUES (:topic, :partition, :offset, :message_at, :digest, :key,"
            " :payload, :error) ON CONFLICT DO NOTHING"
        ),
        [letter.columns() for letter in sorted(letters, key=lambda letter: letter.place)],
    ).rowcount


def find(
    connection: Connection,
    *,
    limit: int = 50,
    after_id: int | None = None,
    topic: str | None = None,
) -> list[DeadLetter]:
    """Return dead letters, newest first; `after_id` is the last id of the page before."""
    if not storable.is_text(topic or ""):
        return []
    newest = MAX_ID if after_id is None else min(after_id - 1, MAX_ID)
    found = connection.execute(
        text(f"SELECT {_COLUMNS} FROM dead_letters WHERE {_CHOSEN} ORDER BY id DESC LIMIT :limit"),
        {**_chosen(topic, None, newest), "limit": max(0, min(limit, MAX_ID))},
    )
    return [DeadLetter(**row) for row in found.mappings()]


def get_many(connection: Connection, ids: Sequence[int]) -> dict[int, DeadLetter]:
    """Return the letters with these ids that exist, by id."""
    found = connection.execute(
        text(f"SELECT {_COLUMNS} FROM dead_letters WHERE id = ANY(CAST(:ids AS bigint[]))"),
        {"ids": [one for one in ids if 0 < one <= MAX_ID]},
    )
    return {row["id"]: DeadLetter(**row) for row in found.mappings()}


def get(connection: Connection, letter_id: int) -> DeadLetter:
    """Return one dead letter. Raises NotFoundError."""
    found = get_many(connection, [letter_id])
    if letter_id not in found:
        raise no_such_letter(letter_id)
    return found[letter_id]


def no_such_letter(letter_id: int) -> NotFoundError:
    """Return the error for an id without a letter."""
    return NotFoundError(f"no dead letter {letter_id}", hint="see `vidan dead list --kind message`")


def count(connection: Connection, *, topic: str | None = None, before: Before = None) -> int:
    """Return the number of letters of a topic, or received before a moment."""
    if not storable.is_text(topic or ""):
        return 0
    found = connection.execute(
        text(f"SELECT count(*) FROM dead_letters WHERE {_CHOSEN}"), _chosen(topic, before)
    )
    return int(found.scalar_one())


def delete(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Delete letters. Returns the ids of those that existed."""
    found = connection.execute(
        text("DELETE FROM dead_letters WHERE id = ANY(CAST(:ids AS bigint[])) RETURNING id"),
        {"ids": [one for one in ids if 0 < one <= MAX_ID]},
    )
    return set(found.scalars())


def delete_some(
    connection: Connection, *, topic: str | None = None, before: Before = None, limit: int = 1000
) -> list[int]:
    """Delete up to `limit` letters of a topic, or received before a moment. Returns their ids.

    Call it until it returns an empty list, each time in a short transaction.
    """
    if not storable.is_text(topic or ""):
        return []
    found = connection.execute(
        text(
            "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters"
            f" WHERE {_CHOSEN} ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING id"
        ),
        {**_chosen(topic, before), "limit": limit},
    )
    return sorted(found.scalars())


def _readable(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def _moment(timestamp_ms: int) -> datetime:
    """Return a message's time, 1970 if the calendar has no such time: its producer chose it."""
    try:
        return datetime.fromtimestamp(max(timestamp_ms, 0) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _chosen(topic: str | None, before: Before, newest: int = MAX_ID) -> dict[str, Any]:
    return {
        "topic": topic,
        "before": before if isinstance(before, datetime) else None,
        "age": before if isinstance(before, timedelta) else None,
        "newest": newest,
    }
