"""What is noticed about a source beside its frames is told."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.support import videos
from tests.support.frames import read
from vidan.domain.detection import Gap
from vidan.video.notes import CUT_OFF
from vidan.video.opening import open_source

MOVED = "in another stream of the file"


def notes(path: Path, size: int = 8) -> list[str]:
    source = open_source(str(path))
    try:
        for _ in source.batches(size):
            pass
        return list(source.notes)
    finally:
        source.close()


def ts(folder: Path, name: str, codec: str = "libx264", **options: str) -> Path:
    made = videos.encode(folder / f"{name}.mkv", 60, codec=codec,
                         options=None if codec == "libx264" else {})  # fmt: skip
    return videos.remux(made, folder / f"{name}.ts", container_options=options)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "flv", "gif", "ogv"])
def test_nothing_is_noticed_about_a_sound_file(suffix: str, tmp_path: Path) -> None:
    codec = {"avi": "mpeg4", "gif": "gif", "ogv": "libvpx"}.get(suffix, "libx264")
    path = videos.encode(
        tmp_path / f"a.{suffix}",
        60,
        codec=codec,
        options=None if codec == "libx264" else {},
        pix_fmt="rgb8" if codec == "gif" else "yuv420p",
        audio=suffix in ("mp4", "mkv", "ts"),
    )
    assert notes(path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"mpegts_start_pid": "500"},
        {"mpegts_start_pid": "500", "mpegts_service_id": "7"},
        {"mpegts_start_pid": "500", "mpegts_pmt_start_pid": "300"},
    ],
    ids=["pid", "service", "table"],
)
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_programme_that_moves_to_another_pid_is_a_gap(
    codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    first, second = ts(tmp_path, "a"), ts(tmp_path, "b", codec, **options)
    path = videos.spliced([first, second], tmp_path / "ab.ts")
    result = read(path, 8)
    assert result.numbers == list(range(60))
    assert result.gaps == [Gap(60, 119, MOVED)]
    (note,) = notes(path)
    assert note.startswith("the video moved from PID 256 to PID 500")


def test_a_programme_that_moves_and_comes_back_has_lost_what_was_between(tmp_path: Path) -> None:
    first, second = ts(tmp_path, "a"), ts(tmp_path, "b", mpegts_start_pid="500")
    path = videos.spliced([first, second, first], tmp_path / "aba.ts")
    assert read(path, 8).gaps[-1] == Gap(120, 179, MOVED)
    (note,) = notes(path)
    assert "counted at the end" in note


def test_recordings_of_one_pid_are_one_video(tmp_path: Path) -> None:
    first = ts(tmp_path, "a")
    path = videos.spliced([first, first], tmp_path / "aa.ts")
    assert read(path, 8).gaps == []
    assert notes(path) == []


def two_videos(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, width in zip(streams, (64, 96), strict=True):
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        for number in range(30):
            for stream, width in zip(streams, (64, 96), strict=True):
                assert isinstance(stream, av.VideoStream)
                frame = av.VideoFrame.from_ndarray(videos.picture(number, width), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(frame))
        for stream in streams:
            assert isinstance(stream, av.VideoStream)
            output.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
def test_a_second_video_stream_is_told(suffix: str, tmp_path: Path) -> None:
    path = two_videos(tmp_path / f"a.{suffix}")
    result = read(path, 8)
    assert result.gaps == []
    (note,) = notes(path)
    assert "another video stream" in note
    assert "64 x 48" in note
    assert "96 x 48" in note


def test_pictures_of_another_size_are_told(tmp_path: Path) -> None:
    small, large = (videos.plain(tmp_path / f"{width}.ts", 90, width=width) for width in (64, 96))
    path = videos.spliced([small, large], tmp_path / "both.ts")
    (note,) = notes(path)
    assert note.startswith("pictures of 96 x 48 follow those of 64 x 48")


@pytest.mark.parametrize("suffix", ["ts", "mkv", "avi"])
def test_a_file_that_grows_is_read_to_its_end_and_told(suffix: str, tmp_path: Path) -> None:
    codec = "mpeg4" if suffix == "avi" else "libx264"
    whole = videos.encode(
        tmp_path / f"a.{suffix}", 200, codec=codec, options=None if suffix != "avi" else {}
    )
    content = whole.read_bytes()
    path = tmp_path / f"growing.{suffix}"
    path.write_bytes(content[: len(content) // 2])
    source = open_source(str(path))
    numbers: list[int] = []
    for batch in grown(source.batches(8), path, content[len(content) // 2 :]):
        numbers += batch.indices.tolist()
    assert numbers == list(range(200))
    (note,) = source.notes
    assert note.startswith(f"the file grew while it was read, from {len(content) // 2} to")
    source.close()


def grown(batches: Iterator, path: Path, rest: bytes) -> Iterator:  # type: ignore[type-arg]
    """Append the rest of the file after the second batch."""
    for number, batch in enumerate(batches):
        if number == 1:
            with path.open("ab") as file:
                file.write(rest)
        yield batch


def test_a_fragmented_file_that_grows_has_lost_nothing_by_that(tmp_path: Path) -> None:
    flags = {"movflags": "frag_keyframe+empty_moov"}
    content = videos.encode(tmp_path / "a.mp4", 200, container_options=flags).read_bytes()
    path = tmp_path / "growing.mp4"
    path.write_bytes(content[: len(content) // 2])
    source = open_source(str(path))
    gaps = [gap for batch in grown(source.batches(8), path, content[len(content) // 2 :])
            for gap in batch.gaps]  # fmt: skip
    assert [gap for gap in gaps if gap.reason == "cut off"] == []
    assert any("the file grew" in note for note in source.notes)
    source.close()


def test_a_file_that_shrinks_or_is_written_to_is_told(tmp_path: Path) -> None:
    for less, told in ((400, "shorter"), (0, "written to")):
        path = videos.encode(tmp_path / "a.ts", 200)
        source = open_source(str(path))
        batches = source.batches(8)
        next(iter(batches))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - less])
        for _ in batches:
            pass
        assert any(told in note for note in source.notes)
        source.close()


@pytest.mark.parametrize("suffix", ["ogv", "gif"])
def test_an_end_that_is_not_marked_was_cut_off(suffix: str, tmp_path: Path) -> None:
    codec, pix_fmt = ("gif", "rgb8") if suffix == "gif" else ("libvpx", "yuv420p")
    whole = videos.encode(tmp_path / f"a.{suffix}", 60, codec=codec, options={}, pix_fmt=pix_fmt)
    assert notes(videos.truncated(whole, tmp_path / f"cut.{suffix}", 0.6)) == [CUT_OFF]


def test_a_cut_list_of_a_fragment_is_told(tmp_path: Path) -> None:
    flags = {"movflags": "frag_keyframe+empty_moov"}
    content = videos.encode(tmp_path / "a.mp4", 60, container_options=flags).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: content.rindex(b"moof") + 30])
    assert notes(path) == [CUT_OFF]


@pytest.mark.parametrize("rotation", [0, 90])
def test_the_shape_of_pixels_is_known_as_it_is_displayed(rotation: int, tmp_path: Path) -> None:
    plain = videos.encode(tmp_path / "a.mp4", 10, rotation=rotation)
    source = open_source(str(plain))
    assert source.info["sample_aspect_ratio"] in (None, "1:1")
    source.close()
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    source = open_source(str(path))
    assert source.info["sample_aspect_ratio"] == ("15:16" if rotation else "16:15")
    assert source.info["codec"] == "h264"
    assert (source.info["width"], source.info["height"]) == ((48, 64) if rotation else (64, 48))
    source.close()


@pytest.mark.parametrize("sampling", [{}, {"every": 7}, {"fps": 5.0}])
@pytest.mark.parametrize("suffix", ["avi", "mkv", "webm", "flv", "ts", "mp4"])
def test_a_total_is_known_or_estimated(
    suffix: str, sampling: dict[str, float], tmp_path: Path
) -> None:
    codec = {"avi": "mpeg4", "webm": "libvpx"}.get(suffix, "libx264")
    options: dict[str, str] | None = None if codec == "libx264" else {}
    path = videos.encode(
        tmp_path / f"a.{suffix}", 60, codec=codec, options=options, audio=suffix == "mkv"
    )
    result = read(path, 8, **sampling)
    source = open_source(str(path), **sampling)  # type: ignore[arg-type]
    estimated = source.info["frames_estimated"]
    if suffix == "mp4":
        assert (source.frames_total, estimated) == (len(result.numbers), None)
    else:
        assert source.frames_total is None
        assert abs(estimated - len(result.numbers)) <= 3
    source.close()
