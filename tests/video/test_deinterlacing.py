"""Interlaced pictures: both fields woven together, or the top field alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vidan.errors import UsageError
from vidan.video.opening import open_source

TOP, BOTTOM = 200, 50


@pytest.fixture
def interlaced(tmp_path: Path) -> Path:
    """A video whose top lines are bright and whose bottom lines are dark."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        options = {"x264-params": "tff=1:qp=1:keyint=5"}
        stream = output.add_stream("libx264", rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(12):
            image = np.full((64, 64, 3), TOP + number, np.uint8)
            image[1::2] = BOTTOM + number
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def pixels(path: Path, deinterlace: bool, frame: int = 0) -> NDArray[np.uint8]:
    source = open_source(str(path), deinterlace=deinterlace, frame=frame)
    found = np.concatenate([batch.pixels for batch in source.batches(4)])
    source.close()
    return found


def test_fields_are_woven_unless_asked_otherwise(interlaced: Path) -> None:
    woven = pixels(interlaced, deinterlace=False)
    assert abs(int(woven[0, 20, 20, 0]) - TOP) < 8
    assert abs(int(woven[0, 21, 20, 0]) - BOTTOM) < 8
    alone = pixels(interlaced, deinterlace=True)
    assert alone.shape == woven.shape
    assert (np.abs(alone[0].astype(int) - TOP) < 8).all()


def test_a_resume_deinterlaces_alike(interlaced: Path) -> None:
    whole = pixels(interlaced, deinterlace=True)
    assert (pixels(interlaced, deinterlace=True, frame=7) == whole[7:]).all()


def test_decord_refuses_to_deinterlace(interlaced: Path) -> None:
    with pytest.raises(UsageError, match="decord can't deinterlace"):
        open_source(str(interlaced), deinterlace=True, decoder="decord")
