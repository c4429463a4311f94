"""Status, transitions, Detection: the words of the domain. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Of the times at which scenarios are due: Python can't hold every one that PostgreSQL can."""


class Status(StrEnum):
    """Where a scenario is on its way."""

    INIT_STARTUP = "init_startup"
    INIT_STARTUP_PROCESSING = "init_startup_processing"
    ACTIVE = "active"
    INIT_SHUTDOWN = "init_shutdown"
    IN_SHUTDOWN_PROCESSING = "in_shutdown_processing"
    INACTIVE = "inactive"
    COMPLETED = "completed"
    FAILED = "failed"


ALLOWED: Mapping[Status, frozenset[Status]] = {
    Status.INIT_STARTUP: frozenset({Status.INIT_STARTUP_PROCESSING, Status.INACTIVE}),
    Status.INIT_STARTUP_PROCESSING: frozenset(
        {Status.ACTIVE, Status.INIT_SHUTDOWN, Status.INIT_STARTUP, Status.FAILED}
    ),
    Status.ACTIVE: frozenset(
        {Status.COMPLETED, Status.INIT_SHUTDOWN, Status.INIT_STARTUP, Status.FAILED}
    ),
    Status.INIT_SHUTDOWN: frozenset(
        {Status.IN_SHUTDOWN_PROCESSING, Status.COMPLETED, Status.INACTIVE}
    ),
    Status.IN_SHUTDOWN_PROCESSING: frozenset({Status.INACTIVE}),
    Status.INACTIVE: frozenset({Status.INIT_STARTUP}),
    Status.COMPLETED: frozenset({Status.INIT_STARTUP}),
    Status.FAILED: frozenset({Status.INIT_STARTUP}),
}
"""The state machine: what each status may become."""

HELD = frozenset(
    {
        Status.INIT_STARTUP_PROCESSING,
        Status.ACTIVE,
        Status.INIT_SHUTDOWN,
        Status.IN_SHUTDOWN_PROCESSING,
    }
)
"""A worker holds the scenario."""

RUNNING = frozenset({Status.INIT_STARTUP_PROCESSING, Status.ACTIVE})
"""A worker holds the scenario and nobody has asked it to stop."""

STOPPING = HELD - RUNNING
"""A stop was asked for and the worker has not let go yet."""

ENDED = frozenset({Status.INACTIVE, Status.COMPLETED, Status.FAILED})
"""Nothing happens any more unless somebody asks for it."""


class DesiredState(StrEnum):
    """What is asked of a worker."""

    RUNNING = "running"
    DRAINED = "drained"  # take nothing new, finish what runs, leave
    STOPPED = "stopped"  # put back what runs, leave


class Detection(NamedTuple):
    """One object in one frame: a tuple, because there are thousands in a page of predictions.

    `box` is (x1, y1, x2, y2) in pixels of the source's frame, `score` is in 0…1.
    """

    box: tuple[float, float, float, float]
    label: str
    score: float
    track_id: int | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames of the source that could not be had: `from_frame`…`to_frame`, both included."""

    from_frame: int
    to_frame: int
    reason: str
