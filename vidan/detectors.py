"""The detectors of a worker: each model once in memory, whatever the number of its slots."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from vidan.batcher import Batcher, Clock, Seat
from vidan.errors import DeviceLost
from vidan.vision.detector import build_detector, device_lost


class DetectorCache:
    """Builds detectors when they are first asked for, and keeps the `keep` used last.

    One that goes is in memory until the last scenario that uses it has ended. `on_lost` is called
    when the GPU is of no more use to this process, in the thread that has found it out.
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
        self._batchers: dict[str, Batcher] = {}  # the one not used for longest first
        # who loads one keeps nobody from the others
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
            batcher = self._known(key) or self._built(key, options)
        return batcher.seat(clock, check, alone=alone)

    def _known(self, key: str) -> Batcher | None:
        with self._lock:
            batcher = self._batchers.pop(key, None)
            if batcher is None:
                self._make_room()
            else:
                self._batchers[key] = batcher  # now used last
            return batcher

    def _built(self, key: str, options: dict[str, Any]) -> Batcher:
        try:
            built = build_detector(device=self._device, threads=self._threads, **options)
        except Exception as error:
            gone = self._lost(error)
            if gone is None:
                raise
            raise gone from gone.__cause__
        batcher = Batcher(built, lost=self._lost)
        with self._lock:
            self._make_room()  # others may have been loaded meanwhile
            self._batchers[key] = batcher
        return batcher

    def _lost(self, error: BaseException) -> DeviceLost | None:
        gone = device_lost(error, self._device)
        if gone is not None:
            self._on_lost(gone)
        return gone

    def _make_room(self) -> None:
        while len(self._batchers) >= self._keep:
            self._batchers.pop(next(iter(self._batchers)))
