"""A real worker that records its frames and calls of the detector, for benchmarks/slots.py.

    python benchmarks/slots_worker.py FILE --options JSON

When the worker ends, it writes to FILE: Unix time and CPU seconds of the process at its first
frame, the seconds from decoded to its task of each frame, the Unix time at which each batch came to
its task, the number of detectors built, and the number of frames in each of their calls.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidan.video import opening

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@dataclass(slots=True)
class Noted:
    """What is written to FILE."""

    first: float | None = None
    cpu: float = 0.0
    waits: list[float] = field(default_factory=list)
    steps: list[tuple[int, float, int]] = field(default_factory=list)
    """(run, time, number of frames) of each batch that came to a task."""
    calls: list[int] = field(default_factory=list)
    built: int = 0


def note_all(noted: Noted) -> None:
    """Wrap the parts of the worker through which frames pass."""
    from vidan.detection import cache as vidan_detectors
    from vidan.run import pipeline

    detectors: Any = vidan_detectors

    since: dict[int, float] = {}
    open_source, build_detector = opening.open_source, detectors.build_detector
    batches = pipeline.Pipeline.batches

    class Watched:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._source = open_source(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

        def batches(self, size: int) -> Iterator[Any]:
            if noted.first is None:
                noted.first, noted.cpu = time.time(), time.process_time()
            for batch in self._source.batches(size):
                since[id(batch)] = time.monotonic()
                yield batch

    def watched_batches(self: pipeline.Pipeline) -> Iterator[Any]:
        for batch, found in batches(self):
            count = len(batch.indices)
            noted.waits += [time.monotonic() - since.pop(id(batch))] * count
            noted.steps.append((id(self), time.time(), count))
            yield batch, found

    def built(**options: Any) -> Any:
        detector: Any = build_detector(**options)
        detect = detector.detect

        def counted(pixels: Any, width: int, height: int) -> Any:
            noted.calls.append(len(pixels))
            return detect(pixels, width, height)

        noted.built += 1
        detector.detect = counted
        return detector

    opening.open_source = Watched
    detectors.build_detector = built
    pipeline.Pipeline.batches = watched_batches  # type: ignore[method-assign]


def main() -> int:
    """Run the worker until SIGTERM. Returns its exit code."""
    from vidan.worker import __main__ as worker

    noted = Noted()
    note_all(noted)
    code = worker.main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(asdict(noted)))
    return code


if __name__ == "__main__":
    sys.exit(main())
