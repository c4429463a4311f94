"""The bare loop to which benchmarks/slots.py compares a worker: several videos in succession.

    python benchmarks/slots_bare.py --threads N --batch B VIDEO…

A thread decodes and scales (benchmarks/bare_loop.py), the detector works; nothing is stored. Prints
{"first", "ended", "cpu", "frames", "waits"}: Unix times of the start of decoding and of the last
result, CPU seconds between the two, the number of frames, and the seconds from decoded to result of
each frame.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bare_loop import AHEAD, decoded
from vidan.detection.building import build_detector


def main() -> int:
    """Detect all frames. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("videos", nargs="+")
    arguments = parser.parse_args()
    with av.open(arguments.videos[0]) as container:
        height, width = container.streams.video[0].height, container.streams.video[0].width
    detector = build_detector(threads=arguments.threads)
    size = detector.decode_size(height, width)
    batches: queue.Queue[tuple[float, NDArray[np.uint8]] | None] = queue.Queue(AHEAD)

    def decode() -> None:
        for video in arguments.videos:
            for pixels in decoded(video, size, arguments.batch):
                batches.put((time.monotonic(), pixels))
        batches.put(None)

    first, cpu = time.time(), time.process_time()
    threading.Thread(target=decode, daemon=True).start()
    waits: list[float] = []
    while (batch := batches.get()) is not None:
        since, pixels = batch
        detector.detect(pixels, width, height)
        waits += [time.monotonic() - since] * len(pixels)
    told = {"first": first, "ended": time.time(), "cpu": time.process_time() - cpu}
    print(json.dumps({**told, "frames": len(waits), "waits": waits}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
