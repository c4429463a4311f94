"""The state machine of scenarios, and the states that workers are asked to be in."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import cast


class Status(StrEnum):
    """The statuses of a scenario."""

    INIT_STARTUP = "init_startup"
    INIT_STARTUP_PROCESSING = "init_startup_processing"
    ACTIVE = "active"
    INIT_SHUTDOWN = "init_shutdown"
    IN_SHUTDOWN_PROCESSING = "in_shutdown_processing"
    INACTIVE = "inactive"
    COMPLETED = "completed"
    FAILED = "failed"


def status_of(stored: str) -> Status:
    """Return a stored status of the history; what was inserted by hand and is none stays text."""
    return Status(stored) if stored in ALLOWED else cast("Status", stored)


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
"""The state machine: the statuses that may follow each status."""

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
"""A worker holds the scenario and no user has asked it to stop."""

STOPPING = HELD - RUNNING
"""A user asked for a stop, and the worker still holds the scenario."""

ENDED = frozenset({Status.INACTIVE, Status.COMPLETED, Status.FAILED})
"""The scenario stays as it is until a user starts it again."""


class DesiredState(StrEnum):
    """The state that a worker is asked to be in."""

    RUNNING = "running"
    DRAINED = "drained"  # claim nothing, finish the runs, leave
    STOPPED = "stopped"  # hand the runs over, leave
