"""The detectors of a worker: each model is in memory once, whatever the number of slots."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from vidan.detection.batcher import Batcher, Seat
from vidan.detection.building import build_detector, device_lost
from vidan.detection.stall_clock import Clock
from vidan.errors import DeviceLost, RejectedTask, VidanError

_Stamp = tuple[int, int, int]


class DetectorCache:
    """Builds each detector when it is first asked for; keeps the last `keep` that were used.

    A detector whose weights file has been replaced is built again. If the new file is damaged, it
    may still be being written, so the error allows a retry. A detector that is dropped from the
    cache stays in memory until the last scenario that uses it has ended. `on_lost` is called when
    this process can't use the GPU any more, in the thread that has noticed it.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        keep: int = 2,
        on_lost: Callable[[DeviceLost], None] = lambda _: None,
    ) -> None:
        self._device = device
        self._threads = threads
        self._keep = keep
        # the least recently used one first
        self._batchers: dict[str, tuple[Batcher, _Stamp | None]] = {}
        # one lock for each detector: loading one does not block the use of the others
        self._loading: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._on_lost = on_lost

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
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            stamp = _stamp(
                options.get("weights")
            )  # before reading: the file may be replaced meanwhile
            batcher = self._known(key, stamp) or self._built(key, stamp, options)
        return batcher.seat(clock, check, alone=alone)

    def _known(self, key: str, stamp: _Stamp | None) -> Batcher | None:
        with self._lock:
            known = self._batchers.get(key)
            if known is None:
                self._make_room()
            if known is None or known[1] != stamp:
                return None
            self._batchers[key] = self._batchers.pop(key)  # the most recently used one is last
            return known[0]

    def _built(self, key: str, stamp: _Stamp | None, options: dict[str, Any]) -> Batcher:
        try:
            built = build_detector(device=self._device, threads=self._threads, **options)
        except Exception as error:
            gone = self._lost(error)
            if gone is not None:
                raise gone from gone.__cause__
            if isinstance(error, RejectedTask) and key in self._batchers:
                raise VidanError(f"the file of weights was replaced: {error}") from error
            raise
        batcher = Batcher(built, lost=self._lost)
        with self._lock:
            self._batchers.pop(key, None)
            self._make_room()  # other threads may have added detectors meanwhile
            self._batchers[key] = batcher, stamp
        return batcher

    def _lost(self, error: BaseException) -> DeviceLost | None:
        gone = device_lost(error, self._device)
        if gone is not None:
            self._on_lost(gone)
        return gone

    def _make_room(self) -> None:
        while len(self._batchers) >= self._keep:
            self._batchers.pop(next(iter(self._batchers)))


def _stamp(weights: str | None) -> _Stamp | None:
    """Return values that change when a file is replaced; None if there is no file to read."""
    if not weights:
        return None
    try:
        found = Path(weights).stat()
    except (OSError, ValueError):  # building the detector raises an error that explains it
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
