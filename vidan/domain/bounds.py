"""Bounds of ids, numbers, names and times that several rooms check."""

from __future__ import annotations

from datetime import UTC, datetime

MAX_ID = 2**63 - 1
"""Largest id of a scenario and largest number of a frame: both are bigint columns."""

MAX_INTEGER = 2**31 - 1
"""Largest value of an integer column, such as a priority or a number of retries."""

MAX_NAME_BYTES = 1_000
"""Most bytes of a scenario's key and of a queue's name: both are indexed."""

EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Range of the times at which scenarios are due: PostgreSQL stores times that Python can't hold."""

MAX_AFTER_SECONDS = 100 * 366 * 86_400
"""Longest delay of a new scenario, and upper bound of `not_before`, in seconds from now."""

PAGE = 500
"""Rows that are read at once where a list is read page by page."""

DECODERS = ("pyav", "decord")
"""Names of the video decoders."""

DEFAULT_QUEUE = "default"
"""The queue of scenarios and workers for which no other is named."""
