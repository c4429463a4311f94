"""The options of a worker process, and the length of its lease."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from vidan.domain.bounds import DEFAULT_QUEUE

MAX_SLOTS = 64
"""Most slots that a worker process may have."""

LEASE_SECONDS = 15.0
"""Length of a worker's lease, in seconds; each heartbeat renews it."""

RENEW_SECONDS = 5.0
"""Pause between two heartbeats of a worker, in seconds."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker runs; the supervisor passes it to each child as JSON.

    `device` is "cpu" or "cuda:N", `slots` the number of scenarios that it runs at once. With
    `source` it takes only scenarios of that source or without a source. `threads` bounds torch's
    CPU threads. A `quarantine` worker takes only suspects, one at a time. After
    `max_frames_per_child` frames, over all slots, the process is replaced by a fresh one.
    """

    name: str
    device: str = "cpu"
    slots: int = 1
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    source: str | None = None
    app: str | None = None
    threads: int | None = None
    quarantine: bool = False
    max_frames_per_child: int | None = None

    def to_json(self) -> str:
        """Return the options as one line of JSON, without those that have their default value."""
        bare = asdict(WorkerOptions(self.name))
        given = {name: value for name, value in asdict(self).items() if value != bare[name]}
        return json.dumps({"name": self.name, **given})

    @classmethod
    def from_json(cls, line: str) -> WorkerOptions:
        """Return the options that `to_json` wrote."""
        found = json.loads(line)
        if "queues" in found:
            found["queues"] = tuple(found["queues"])
        return cls(**found)
