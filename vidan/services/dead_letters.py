"""Messages that can't be used, kept for people to look at; the partition moves on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from vidan.errors import NotFoundError
from vidan.services.scenarios import MAX_ID


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be used, as it came from its topic."""

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
        """Return the JSON that scripts may rely on; bytes as text, what is not UTF-8 escaped."""
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


def _readable(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def add(
    connection: Connection,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    payload: bytes | None,
    error: str,
) -> bool:
    """Keep a message that can't be used. Returns False if it is kept already.

    The same place in a topic may come twice with another message, since an embedded broker starts
    again at offset 0: timestamp and digest tell them apart.
    """
    digest = hashlib.sha256((key or b"") + b"\x00" + (payload or b"")).hexdigest()
    return bool(
        connection.execute(
            text(
                'INSERT INTO dead_letters (topic, partition, "offset", message_at, digest, key,'
                " payload, error) VALUES (:topic, :partition, :offset, :message_at, :digest, :key,"
                " :payload, :error) ON CONFLICT DO NOTHING"
            ),
            {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "message_at": _moment(timestamp_ms),
                "digest": digest,
                "key": key,
                "payload": payload,
                "error": error,
            },
        ).rowcount
    )


def _moment(timestamp_ms: int) -> datetime:
    """Return a message's time. Its producer chose it: what no calendar has becomes 1970."""
    try:
        return datetime.fromtimestamp(max(timestamp_ms, 0) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


_COLUMNS = 'id, topic, partition, "offset", message_at, key, payload, error, received_at'


def find(
    connection: Connection, *, limit: int = 50, after_id: int | None = None
) -> list[DeadLetter]:
    """Return dead letters, the newest first; `after_id` is the last id of the page before."""
    found = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM dead_letters WHERE id <= :newest ORDER BY id DESC LIMIT :limit"
        ),
        {
            "newest": MAX_ID if after_id is None else min(after_id - 1, MAX_ID),
            "limit": max(0, min(limit, MAX_ID)),
        },
    )
    return [DeadLetter(**row) for row in found.mappings()]


def get(connection: Connection, letter_id: int) -> DeadLetter:
    """Return one dead letter. Raises NotFoundError."""
    row = None
    if 0 < letter_id <= MAX_ID:
        row = (
            connection.execute(
                text(f"SELECT {_COLUMNS} FROM dead_letters WHERE id = :id"), {"id": letter_id}
            )
            .mappings()
            .one_or_none()
        )
    if row is None:
        raise NotFoundError(f"no dead letter {letter_id}", hint="see `vidan dead list`")
    return DeadLetter(**row)
