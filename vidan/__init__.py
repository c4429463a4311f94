"""vidan: a Celery-style task framework over Kafka for video analytics.

Importing it loads nothing: each name is loaded when it is first used. `__init__.pyi` beside this
file declares the names for type checkers. Not even Python's own modules are imported here: under
`python -m` the working folder still stands before them.
"""

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

_HOMES = {  # the module that defines each name
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


def __dir__():
    return __all__


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
