"""vidan: a Celery-style task framework over Kafka for video analytics.

Importing it loads nothing heavy: what it offers is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidan.domain import Detection
    from vidan.domain.retry import Retry
    from vidan.domain.schedule import Schedule
    from vidan.errors import Reject, TimeLimitExceeded
    from vidan.run.run import Run
    from vidan.tasks.app import Vidan
    from vidan.tasks.calls import ScenarioHandle
    from vidan.tasks.signature import Signature

__version__ = "0.1.0"
__all__ = [
    "Detection",
    "Reject",
    "Retry",
    "Run",
    "ScenarioHandle",
    "Schedule",
    "Signature",
    "TimeLimitExceeded",
    "Vidan",
    "__version__",
]

_HOMES = {
    "Detection": "vidan.domain",
    "Reject": "vidan.errors",
    "Retry": "vidan.domain.retry",
    "Run": "vidan.run.run",
    "ScenarioHandle": "vidan.tasks.calls",
    "Schedule": "vidan.domain.schedule",
    "Signature": "vidan.tasks.signature",
    "TimeLimitExceeded": "vidan.errors",
    "Vidan": "vidan.tasks.app",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
