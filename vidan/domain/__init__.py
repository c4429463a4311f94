"""The words of the domain, without I/O: statuses, detections, times, and bounds of values."""

from __future__ import annotations

from vidan.domain.detection import Detection, Gap
from vidan.domain.status import Status

__all__ = ["Detection", "Gap", "Status"]
