"""Videos for the benchmarks, made from the sample video in the package."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

SAMPLE = Path(__file__).resolve().parent.parent / "vidan" / "samples" / "pedestrians.mp4"
RATE = 25


def scaled(path: Path, height: int, width: int, frames: int) -> Path:
    """Write the sample in another size, repeated until the video has `frames` frames."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(
            "libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"}
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        written = 0
        while written < frames:
            with av.open(str(SAMPLE)) as source:
                for frame in source.decode(video=0):
                    if written == frames:
                        break
                    scaled = frame.reformat(width, height, "yuv420p")
                    scaled.pts, scaled.time_base = written, Fraction(1, RATE)
                    output.mux(stream.encode(scaled))
                    written += 1
        output.mux(stream.encode())
    return path
