"""What a library can't look up fails no frame: side data, titles, colour labels, rates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support import videos
from tests.support.frames import read
from vidan.errors import RejectedTask
from vidan.video import probe, source
from vidan.video.opening import check_source, open_source
from vidan.video.optional import look_up
from vidan.video.pictures import Converter, Turn

ORIENTATION = 0x112
"""The EXIF tag that says how a picture is turned and mirrored."""

TITLE = b"TITLE-OF-THE-VIDEO"


def photo(path: Path, orientation: int) -> Path:
    """A JPEG with EXIF: its four quarters differ, so every turn shows."""
    picture = Image.new("RGB", (64, 48), "black")
    picture.paste((255, 0, 0), (0, 0, 32, 24))
    picture.paste((0, 255, 0), (32, 0, 64, 24))
    picture.paste((0, 0, 255), (0, 24, 32, 48))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_with_exif_is_shown_as_it_says(orientation: int, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", orientation)
    with Image.open(path) as file:
        right = np.asarray(ImageOps.exif_transpose(file).convert("RGB")).astype(int)
    check_source(str(path))
    (batch,) = open_source(str(path)).batches(4)
    assert batch.indices.tolist() == [0]
    assert batch.pixels[0].shape == right.shape
    assert np.abs(batch.pixels[0] - right).mean() < 5


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
@pytest.mark.parametrize("of", ["container", "stream"])
def test_a_title_that_is_not_utf_8_is_no_damage(suffix: str, of: str, tmp_path: Path) -> None:
    plain = videos.encode(tmp_path / f"plain.{suffix}", 10, options={"bf": "0"})
    path = tmp_path / f"a.{suffix}"
    with av.open(str(plain)) as given, av.open(str(path), "w") as output:
        copy = output.add_stream_from_template(given.streams.video[0])
        titled = output.metadata if of == "container" else copy.metadata
        titled["title"] = titled["handler_name"] = TITLE.decode()
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = copy
                output.mux(packet)
    content = path.read_bytes()
    assert TITLE in content
    path.write_bytes(content.replace(TITLE, b"\xe9" * len(TITLE)))
    check_source(str(path))
    assert read(path).digests == read(plain).digests


@pytest.mark.parametrize("matrix", ["bt2020c", "chroma-derived-nc", "chroma-derived-c"])
def test_a_colour_matrix_that_the_scaler_lacks_is_replaced_by_the_near_one(
    matrix: str, tmp_path: Path
) -> None:
    # x264's vector code gives other bytes now and then, by the memory that its input lies in.
    params = videos.X264["x264-params"] + ":no-asm=1"
    path, near = (
        videos.encode(
            tmp_path / f"{one}.mp4",
            10,
            options={"x264-params": f"{params}:colormatrix={one}:colorprim=bt2020"},
        )
        for one in (matrix, "bt2020nc")
    )
    assert read(path).digests == read(near).digests


def test_a_reserved_colour_matrix_says_nothing(tmp_path: Path) -> None:
    plain = videos.encode(tmp_path / "plain.mkv", 10, codec="ffv1", options={}, pix_fmt="yuv420p")
    frame = next(av.open(str(plain)).decode(video=0))
    right = open_source(str(plain))
    (batch,) = right.batches(10)
    pixels = np.zeros_like(batch.pixels[0])
    frame.colorspace = 3  # reserved, ITU-T H.273
    Converter((right.height, right.width), Turn()).into(frame, pixels)
    assert (pixels == batch.pixels[0]).all()


@pytest.mark.parametrize(("matrix", "name"), [("ycgco", "YCgCo"), ("ictcp", "ICtCp")])
def test_colours_without_a_near_matrix_are_refused_by_their_name(
    matrix: str, name: str, tmp_path: Path
) -> None:
    path = videos.encode(
        tmp_path / "a.mp4", 3, options={"x264-params": f"colormatrix={matrix}:keyint=5"}
    )
    with pytest.raises(RejectedTask, match=name):
        read(path)


def _raise(*_: object) -> None:
    raise ValueError("31 is not a valid Type")


@pytest.mark.parametrize("error", [ValueError, KeyError, LookupError, OSError, AttributeError])
def test_a_look_up_that_raises_gives_what_stands_in(error: type[Exception]) -> None:
    def raising() -> int:
        raise error("unknown")

    assert look_up("a number", raising, 7) == 7
    assert look_up("a number", lambda: 3, 7) == 3


@pytest.mark.parametrize(
    "break_it",
    [
        lambda patch: patch.setattr(probe, "_total", _raise),
        lambda patch: patch.setattr(source, "stored_total", _raise),
    ],
)
def test_frames_do_not_need_their_total(
    break_it: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.encode(tmp_path / "a.mp4", 10)
    break_it(monkeypatch)
    result = read(path)
    assert result.numbers == list(range(10))
    assert result.total is None
