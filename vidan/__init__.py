"""vidan: a Celery-style task framework over Kafka for video analytics.

Importing it loads nothing heavy: what it offers is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidan.calls import ScenarioHandle
    from vidan.domain import Detection
    from vidan.run import Run
    from vidan.tasks import Vidan

__version__ = "0.1.0"
__all__ = ["Detection", "Run", "ScenarioHandle", "Vidan", "__version__"]

_HOMES = {
    "Detection": "vidan.domain",
    "Run": "vidan.run",
    "ScenarioHandle": "vidan.calls",
    "Vidan": "vidan.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
