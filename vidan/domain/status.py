"""The state machine of scenarios, and what is asked of workers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


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
