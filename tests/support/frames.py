"""Reads a source to its end, and gives what the result is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vidan.domain.detection import Gap
from vidan.video.opening import open_source


@dataclass(frozen=True)
class Read:
    """What a source gave: (number, milliseconds, digest of the pixels) of each frame, and the
    (next_frame, next_pts) of each batch.
    """

    frames: list[tuple[int, int, str]]
    gaps: list[Gap]
    checkpoints: list[tuple[int, int | None]]
    total: int | None
    restarts: dict[int, tuple[int, int] | None]
    """The restart point of each checkpoint."""

    @property
    def numbers(self) -> list[int]:
        return [number for number, _, _ in self.frames]

    @property
    def times(self) -> list[int]:
        return [time for _, time, _ in self.frames]

    @property
    def digests(self) -> list[str]:
        return [digest for _, _, digest in self.frames]

    @property
    def lost(self) -> list[int]:
        return [n for gap in self.gaps for n in range(gap.from_frame, gap.to_frame + 1)]


def read(path: Path | str, size: int = 1, **options: Any) -> Read:
    source = open_source(str(path), **options)
    result = Read([], [], [], source.frames_total, {})
    try:
        for batch in source.batches(size):
            assert len(batch.indices) == len(batch.times) == len(batch.pixels) <= size
            for number, time, pixels in zip(batch.indices, batch.times, batch.pixels, strict=True):
                result.frames.append((int(number), int(time), digest(pixels)))
            result.gaps.extend(batch.gaps)
            result.checkpoints.append((batch.next_frame, batch.next_pts))
            result.restarts[batch.next_frame] = batch.next_restart
    finally:
        source.close()
    return result


def resumed(whole: Read, path: Path, place: tuple[int, int | None], **options: Any) -> str:
    """Read from a checkpoint, and say what differs from the rest of the undisturbed run.

    Returns "" if nothing differs.
    """
    restart = whole.restarts.get(place[0])
    again = read(path, 8, frame=place[0], pts=place[1], restart=restart, **options)
    frames = [frame for frame in whole.frames if frame[0] >= place[0]]
    gaps = [gap for gap in whole.gaps if gap.from_frame >= place[0]]
    if again.frames == frames and again.gaps == gaps:
        return ""
    return f"from {place}: {again.frames[:2]}… {again.gaps}, not {frames[:2]}… {gaps}"


def digest(pixels: NDArray[np.uint8]) -> str:
    return sha1(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:12]


def reference(path: Path) -> list[NDArray[np.uint8]]:
    """Return all pictures of an undamaged video, decoded in the plainest way."""
    with av.open(str(path)) as container:
        return [_rgb(frame) for frame in container.decode(video=0)]


def decodable(path: Path) -> int:
    """Count the pictures that a plain loop decodes when it skips bad packets."""
    count = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                count += len(packet.decode())
            except av.error.InvalidDataError:
                continue
    return count


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8)
    return pixels
