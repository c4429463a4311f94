"""Annotated video: its frames, their times, the drawing, and no half-written file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vidan.domain.detection import Detection
from vidan.errors import VidanError
from vidan.export.annotated_video import AnnotatedVideo, color, draw, render, snapshot
from vidan.video.frames import FrameBatch

Pixels = NDArray[np.uint8]
BOX = Detection((20.0, 30.0, 60.0, 50.0), "person", 0.91)


def gray(height: int = 72, width: int = 96, level: int = 90) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


class Source:
    """Frames 0, 2, 4, … at 40 ms each, in batches as asked for; one batch is empty."""

    width, height = 384, 288
    fps: float | None = 25.0
    frames_total: int | None = None
    info: Mapping[str, Any]
    notes: Sequence[str] = ()
    live = False

    def __init__(self, count: int, scale: int = 1, fails: bool = False) -> None:
        self.count, self.scale, self.fails = count, scale, fails
        self.info = {}

    def batches(self, size: int) -> Iterator[FrameBatch]:
        for start in range(0, self.count, size):
            indices = 2 * np.arange(start, min(start + size, self.count), dtype=np.int64)
            yield self._batch(indices)
        if self.fails:
            raise RuntimeError("the source broke")
        yield self._batch(np.arange(0, dtype=np.int64))

    def _batch(self, indices: NDArray[np.int64]) -> FrameBatch:
        pixels = np.stack([gray(288 // self.scale, 384 // self.scale)] * max(1, len(indices)))
        return FrameBatch(
            indices=indices,
            times=indices * 40,
            pixels=pixels[: len(indices)],
            width=self.width,
            height=self.height,
            gaps=(),
            next_frame=0,
            next_pts=None,
        )

    def close(self) -> None:
        pass


def read(path: Path) -> tuple[list[int], list[Pixels]]:
    """Return times in milliseconds, and pictures."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [round(frame.time * 1000) for frame in frames if frame.time is not None]
        return times, [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in frames]


def is_plain(picture: Pixels) -> bool:
    return int(np.abs(picture.astype(int) - 90).max()) < 12


def test_all_frames_are_written_and_the_predicted_ones_drawn_on(tmp_path: Path) -> None:
    out, told = tmp_path / "out.mp4", list[int]()
    predictions = [(2, [BOX]), (3, [BOX]), (8, []), (20, [BOX])]
    assert render(Source(11), predictions, out, on_progress=told.append) == 11
    times, pictures = read(out)
    assert times == [80 * n for n in range(11)]
    assert [n for n, picture in enumerate(pictures) if not is_plain(picture)] == [1, 10]
    assert told == [8, 11, 11]
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_only_the_predicted_frames(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert render(Source(11), [(2, [BOX]), (8, [])], out, only_predicted=True) == 2
    assert read(out)[0] == [80, 320]


def test_a_video_is_h264_in_yuv420p(tmp_path: Path) -> None:
    render(Source(3), [], tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        expected = "h264" if "libx264" in av.codecs_available else "mpeg4"
        assert stream.codec_context.name == expected
        assert stream.codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("aspect", ["16:15", "4:3", None])
def test_pixels_keep_their_shape(aspect: str | None, tmp_path: Path) -> None:
    source = Source(3)
    source.info = {"sample_aspect_ratio": aspect}
    render(source, [(0, [BOX])], tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        written = stream.sample_aspect_ratio
        assert (stream.width, stream.height) == (Source.width, Source.height)
    number, _, over = (aspect or "1:1").partition(":")
    assert (written or 1) == Fraction(int(number), int(over))


def test_uneven_times_and_odd_sides(tmp_path: Path) -> None:
    out = tmp_path / "odd.mp4"
    times = [0, 40, 41, 1000, 1000, 90_000]
    with AnnotatedVideo(out, 33, 21) as video:
        for time_ms in times:
            video.write(gray(21, 33), time_ms, [])
    written, pictures = read(out)
    assert written == [0, 40, 41, 1000, 1001, 90_000]
    assert pictures[0].shape == (22, 34, 3)
    assert is_plain(pictures[0])


def test_an_interrupted_video_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"the one before")
    with pytest.raises(RuntimeError, match="broke"):
        render(Source(5, fails=True), [], out)
    assert out.read_bytes() == b"the one before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_no_frames_make_no_video(tmp_path: Path) -> None:
    with pytest.raises(VidanError, match="no frame to write"):
        render(Source(0), [], tmp_path / "out.mp4")
    with pytest.raises(VidanError, match="no frame to write"):
        render(Source(3), [], tmp_path / "out.mp4", only_predicted=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VidanError, match="can't write"):
        render(Source(1), [], tmp_path / "no" / "out.mp4")
    with pytest.raises(VidanError, match="can't write"):
        snapshot(gray(), [], tmp_path / "no" / "out.png")


def test_a_box_is_where_the_detection_is() -> None:
    picture = np.asarray(draw(gray(360, 480), [BOX], 96, 72))  # five times as large
    own = np.array(color("person"))
    for y, x in ((200, 300), (250, 200), (200, 100), (250, 300)):  # right, bottom, left, corner
        assert (picture[y, x] == own).all()
    assert (picture[200, 200] == 90).all(), "the object stays visible"
    assert (picture[300:] == 90).all(), "nothing is drawn elsewhere"
    assert ((picture[100:150] == 0).all(axis=2)).any(), "black text above the box"


def test_the_frame_given_is_not_drawn_on() -> None:
    pixels = gray()
    draw(pixels, [BOX], 96, 72)
    assert (pixels == 90).all()


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 96.0, 72.0), (95.9, 71.9, 96.0, 72.0), (0.0, 0.0, 0.0, 0.0)]
)
def test_boxes_at_the_edge(box: tuple[float, float, float, float]) -> None:
    picture = np.asarray(draw(gray(), [Detection(box, "x" * 40, 1.0, track_id=7)] * 3, 96, 72))
    assert picture.shape == (72, 96, 3)
    assert not (picture == 90).all()


def test_labels_have_colours_of_their_own() -> None:
    assert color("person") == color("person")
    assert len({color(label) for label in ("person", "car", "bus", "truck", "dog")}) == 5


def test_snapshot_of_a_scaled_frame(tmp_path: Path) -> None:
    snapshot(gray(36, 48), [BOX], tmp_path / "out.png", width=96, height=72)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (48, 36)
        assert picture.getpixel((30, 20)) == color("person")


def test_render_scales_boxes_to_smaller_frames(tmp_path: Path) -> None:
    out = tmp_path / "small.mp4"
    render(Source(1, scale=2), [(0, [BOX])], out)
    [picture] = read(out)[1]
    assert picture.shape == (144, 192, 3)
    assert not is_plain(picture[14:18, 8:32]), "the upper side of the box"
    assert is_plain(picture[48:])
