"""The bounds and defaults that several rooms share: each stands here once."""

from __future__ import annotations

from datetime import UTC, datetime

MAX_ID = 2**63 - 1
"""The largest id of a scenario and the largest number of a frame: both are bigint columns."""

MAX_INTEGER = 2**31 - 1
"""The largest priority of a scenario and the most retries: both are integer columns."""

DEFAULT_QUEUE = "default"
"""The queue of scenarios and workers for which no other is given."""

MAX_NAME_BYTES = 1_000
"""Most bytes of a scenario's key and of a queue's name: both are indexed."""

EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Range of the times at which scenarios are due: PostgreSQL holds times that Python can't."""

MAX_AFTER_SECONDS = 100 * 366 * 86_400
"""Longest delay of a new scenario, and upper bound of `not_before`, in seconds from now."""

DECODERS = ("pyav", "decord")
"""The names of the decoders."""
