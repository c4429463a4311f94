"""The loop that vidan is measured against: a thread decodes, the detector works; nothing is stored.

`python -m benchmarks.bare_loop OPTIONS` (JSON: see Options) loads the detector, prints a line once
it is ready, and then runs once for each line of stdin, which names a mode:

    loop    decode and detect             decode  only decode           infer  only detect

For each run it prints JSON: wall and cpu (seconds), frames, detections.
"""

from __future__ import annotations

import json
import queue
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vidan.detection.building import build_detector  # noqa: E402
from vidan.detection.detector import Detector  # noqa: E402

AHEAD = 2
"""Most batches decoded ahead of the detector."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the loop runs on. `batch` is in frames; 0 stands for the detector's batch size."""

    source: str
    model: str
    weights: str | None = None
    min_score: float = 0.35
    threads: int = 1
    batch: int = 0

    def as_json(self) -> str:
        """Return the options as one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Ran:
    """The seconds that a pass over the source took, and what it found."""

    wall: float
    cpu: float
    frames: int
    detections: int


def decoded(source: str, size: tuple[int, int], batch: int) -> Iterator[NDArray[np.uint8]]:
    """Yield batches (N, H, W, 3) uint8 RGB, scaled to `size` (H, W) by the decoder."""
    height, width = size
    reformatter = VideoReformatter()
    with av.open(source) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        pixels = np.empty((batch, height, width, 3), np.uint8)
        filled = 0
        for frame in container.decode(stream):
            rgb = reformatter.reformat(frame, width, height, "rgb24")
            plane = rgb.planes[0]
            rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)  # type: ignore[call-overload]
            pixels[filled] = rows[:, : 3 * width].reshape(height, width, 3)
            filled += 1
            if filled == batch:
                yield pixels
                pixels, filled = np.empty_like(pixels), 0
        if filled:
            yield pixels[:filled]


class BareLoop:
    """One detector and one source."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._detector: Detector = build_detector(
            options.model,
            weights=options.weights,
            min_score=options.min_score,
            threads=options.threads,
        )
        with av.open(options.source) as container:
            context = container.streams.video[0].codec_context
            self._height, self._width = context.height, context.width
        self._size = self._detector.decode_size(self._height, self._width)
        self._batch = options.batch or self._detector.batch_size
        self._some = list(_first(4, decoded(options.source, self._size, self._batch)))

    def run(self, mode: str) -> Ran:
        """Go through the source once."""
        wall, cpu = time.perf_counter(), _cpu()
        frames = detections = 0
        for found in {"loop": self._loop, "decode": self._decode, "infer": self._infer}[mode]():
            frames += len(found)
            detections += sum(map(len, found))
        return Ran(time.perf_counter() - wall, _cpu() - cpu, frames, detections)

    def _detect(self, pixels: NDArray[np.uint8]) -> list[list[object]]:
        return [list(one) for one in self._detector.detect(pixels, self._width, self._height)]

    def _loop(self) -> Iterator[list[list[object]]]:
        ahead: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(AHEAD)

        def decode() -> None:
            for pixels in decoded(self._options.source, self._size, self._batch):
                ahead.put(pixels)
            ahead.put(None)

        thread = threading.Thread(target=decode)
        thread.start()
        while (pixels := ahead.get()) is not None:
            yield self._detect(pixels)
        thread.join()

    def _decode(self) -> Iterator[list[list[object]]]:
        for pixels in decoded(self._options.source, self._size, self._batch):
            yield [[] for _ in pixels]

    def _infer(self) -> Iterator[list[list[object]]]:
        for pixels in self._some:
            yield self._detect(pixels)


def _first(count: int, batches: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for _, pixels in zip(range(count), batches, strict=False):
        yield pixels


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Load, then run at each line of stdin. Returns the exit code."""
    loop = BareLoop(Options(**json.loads(sys.argv[1])))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(loop.run(line.strip()))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
