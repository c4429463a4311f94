"""The detectors of a worker: each model once in memory, whatever the number of its slots."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from vidan.batcher import Batcher, Clock, Seat
from vidan.vision.detector import build_detector


class DetectorCache:
    """Builds detectors when they are first asked for, and keeps the `keep` used last.

    One that goes is in memory until the last scenario that uses it has ended.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None, keep: int = 2) -> None:
        self._device = device
        self._threads = threads
        self._keep = keep
        self._batchers: dict[str, Batcher] = {}  # the one not used for longest first
        self._lock = threading.Lock()

    def get(
        self,
        clock: Clock,
        check: Callable[[], None] = lambda: None,
        *,
        alone: bool = False,
        **options: Any,
    ) -> Seat:
        """Return a seat at the detector for these options of `build_detector`.

        For `clock`, `check` and `alone` see Batcher.seat.
        """
        key = json.dumps(options, sort_keys=True)
        with self._lock:
            batcher = self._batchers.pop(key, None)
            if batcher is None:
                while len(self._batchers) >= self._keep:
                    self._batchers.pop(next(iter(self._batchers)))
                built = build_detector(device=self._device, threads=self._threads, **options)
                batcher = Batcher(built)
            self._batchers[key] = batcher
        return batcher.seat(clock, check, alone=alone)
