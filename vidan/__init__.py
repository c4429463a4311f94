"""vidan: a Celery-style task framework over Kafka for video analytics."""

from __future__ import annotations

__version__ = "0.1.0"
