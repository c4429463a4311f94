"""The bare loop that benchmarks/slots.py compares with: a thread decodes, a loop detects.

    python benchmarks/slots_bare.py --threads N --batch B VIDEO…

Decodes with PyAV at the size that the model wants, one video after the other; nothing is stored.
Prints {"began", "first", "ended", "cpu", "frames", "waits"}: Unix times of the process's start, the
first frame and the last result, CPU seconds between these two, and each frame's wait in seconds
from decoded to result.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCHES_AHEAD = 2


def decoded(videos: Sequence[str], size: tuple[int, int]) -> Iterator[tuple[float, Any]]:
    """Each frame, and the time (monotonic) at which it was there."""
    import av

    for video in videos:
        with av.open(video) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24", height=size[0], width=size[1])
                yield time.monotonic(), pixels


def main() -> int:
    """Detect all frames. Returns the exit code."""
    began = time.time()
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("videos", nargs="+")
    arguments = parser.parse_args()

    import av
    import numpy as np

    from vidan.vision.detector import build_detector

    with av.open(arguments.videos[0]) as container:
        height, width = container.streams.video[0].height, container.streams.video[0].width
    detector = build_detector(threads=arguments.threads)
    size = detector.decode_size(height, width)
    batches: queue.Queue[list[tuple[float, Any]] | None] = queue.Queue(BATCHES_AHEAD)

    def decode() -> None:
        batch = []
        for frame in decoded(arguments.videos, size):
            batch.append(frame)
            if len(batch) == arguments.batch:
                batches.put(batch)
                batch = []
        if batch:
            batches.put(batch)
        batches.put(None)

    first, cpu = time.time(), time.process_time()
    threading.Thread(target=decode, daemon=True).start()
    waits: list[float] = []
    while (batch := batches.get()) is not None:
        detector.detect(np.stack([pixels for _, pixels in batch]), width, height)
        waits += [time.monotonic() - since for since, _ in batch]
    print(
        json.dumps(
            {
                "began": began,
                "first": first,
                "ended": time.time(),
                "cpu": time.process_time() - cpu,
                "frames": len(waits),
                "waits": waits,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
