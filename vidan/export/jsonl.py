"""The format jsonl: one line of JSON per frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from vidan.services.predictions import StoredFrame


def write(
    pages: Iterable[list[StoredFrame]],
    target: IO[str],
    sources: Mapping[int, str | None] | None = None,
) -> int:
    """Write the frames of all pages; return how many."""
    count = 0
    for page in pages:
        for frame in page:
            record = frame.as_json()
            if sources is not None:
                record["source"] = sources[frame.scenario_id]
            target.write(json.dumps(record, ensure_ascii=False) + "\n")
        count += len(page)
    return count
