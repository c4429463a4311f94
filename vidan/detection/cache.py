"""The detectors of a worker: each model once in memory, whatever the number of its slots."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from vidan.detection.batcher import Batcher, Clock, Seat
from vidan.detection.building import build_detector, device_lost
from vidan.errors import DeviceLost, RejectedTask, VidanError

_Stamp = tuple[int, int, int]


class DetectorCache:
    """Builds detectors when they are first asked for, and keeps the `keep` used last.

    One whose file of weights has been replaced since is built anew, and takes the other's place;
    what is wrong with the file then may be that it is just being written, so a retry may mend it.
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
        # the one not used for longest first
        self._batchers: dict[str, tuple[Batcher, _Stamp | None]] = {}
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
            stamp = _stamp(options.get("weights"))  # before it is read: it may be replaced then
            batcher = self._known(key, stamp) or self._built(key, stamp, options)
        return batcher.seat(clock, check, alone=alone)

    def _known(self, key: str, stamp: _Stamp | None) -> Batcher | None:
        with self._lock:
            known = self._batchers.get(key)
            if known is None:
                self._make_room()
            if known is None or known[1] != stamp:
                return None
            self._batchers[key] = self._batchers.pop(key)  # now used last
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
            self._make_room()  # others may have been loaded meanwhile
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
    """Return what tells a file from the one that it replaces; None if there is none to look at."""
    if not weights:
        return None
    try:
        found = Path(weights).stat()
    except (OSError, ValueError):  # to build the detector says what is wrong with it
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
