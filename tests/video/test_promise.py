"""The end of a file is held against what its header promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import videos
from tests.support.frames import read
from tests.support.structures import Group, Structure, write
from vidan.domain.detection import Gap
from vidan.video.promise import Promise, Reach

WEBM = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
FRAMES = 60
Maker = Callable[[Path], Path]


def joined_with_longer_sound(folder: Path) -> Path:
    """A Matroska whose sound lasts 2 seconds longer than its video, without statistics."""
    path = folder / "a.mkv"
    with av.open(str(videos.encode(folder / "b.mkv", FRAMES, audio=True))) as given_:
        video, sound = given_.streams.video[0], given_.streams.audio[0]
        with av.open(str(path), "w") as output:
            copies = {one.index: output.add_stream_from_template(one) for one in (video, sound)}
            for packet in given_.demux():
                if packet.size:
                    if packet.stream is sound:
                        packet.pts = packet.dts = (packet.pts or 0) * 2
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)
    return without_statistics(path)


def without_statistics(path: Path) -> Path:
    """Rename the statistics of each stream: other programs than FFmpeg write none."""
    content = path.read_bytes()
    assert b"DURATION" in content
    path.write_bytes(content.replace(b"DURATION", b"NOTATION"))
    return path


def without_duration(path: Path) -> Path:
    """Remove what the header says about the duration, as a recorder leaves it that was killed."""
    content = path.read_bytes()
    found = re.search(rb"\x44\x89\x88.{8}", content, re.DOTALL)
    assert found
    void = b"\xec\x89" + bytes(9)  # an element Void of the same length
    path.write_bytes(content[: found.start()] + void + content[found.end() :])
    return without_statistics(path)


PROMISING: dict[str, Maker] = {
    "mkv": lambda d: videos.encode(d / "a.mkv", FRAMES),
    "mkv with sound": lambda d: videos.encode(d / "a.mkv", FRAMES, audio=True),
    "mkv without statistics": lambda d: without_statistics(videos.encode(d / "a.mkv", FRAMES)),
    "webm": lambda d: videos.encode(d / "a.webm", FRAMES, codec="libvpx", options=WEBM),
    "avi": lambda d: videos.encode(d / "a.avi", FRAMES, codec="mpeg4", options={}),
    "avi with sound": lambda d: videos.encode(
        d / "a.avi", FRAMES, codec="mpeg4", options={}, audio=True
    ),
    "avi of B pictures": lambda d: videos.encode(
        d / "a.avi", FRAMES, codec="mpeg4", options={"bf": "2"}
    ),
    "flv": lambda d: videos.encode(d / "a.flv", FRAMES),
    "wmv": lambda d: videos.encode(
        d / "a.wmv", FRAMES, codec="wmv2", options={}, width=160, height=120
    ),
    "mxf": lambda d: videos.encode(d / "a.mxf", FRAMES, codec="mpeg2video", options={}),
    "gxf": lambda d: videos.encode(
        d / "a.gxf", FRAMES, codec="mpeg2video", options={}, width=720, height=576
    ),
    "ivf": lambda d: videos.encode(d / "a.ivf", FRAMES, codec="libvpx", options=WEBM),
    "rm": lambda d: videos.encode(d / "a.rm", FRAMES, codec="rv20", options={}),
    "apng": lambda d: videos.encode(
        d / "a.apng", FRAMES, codec="apng", options={}, pix_fmt="rgb24"
    ),
    "mp4 of fragments with an index": lambda d: videos.encode(
        d / "a.mp4", FRAMES, container_options={"movflags": "dash+empty_moov+global_sidx"}
    ),
}
TOGETHER: dict[str, Maker] = {
    "flv with sound": lambda d: videos.encode(d / "a.flv", FRAMES, audio=True),
    "mkv with sound, without statistics": lambda d: without_statistics(
        videos.encode(d / "a.mkv", FRAMES, audio=True)
    ),
    "wmv with sound": lambda d: videos.encode(
        d / "a.wmv", FRAMES, codec="wmv2", options={}, audio=True, width=160, height=120
    ),
}
"""Containers that say how long the longer of video and sound is."""
SOUND_FRAMES = 4
"""A packet of sound of the test videos lasts as long as so many frames."""
SILENT: dict[str, Maker] = {
    "ts": lambda d: videos.encode(d / "a.ts", FRAMES),
    "mkv without duration": lambda d: without_duration(videos.encode(d / "a.mkv", FRAMES)),
    "ogg": lambda d: videos.encode(d / "a.ogv", FRAMES, codec="libvpx", options=WEBM),
}
UNEVEN = [0, 40, 80, 1000, 1040, 1080, 4000, 4040, 4080, 9000]
"""Milliseconds at which the pictures of a recorded screen come."""


@pytest.mark.parametrize("kind", [*PROMISING, *TOGETHER, *SILENT])
def test_a_whole_file_lacks_no_end(kind: str, tmp_path: Path) -> None:
    result = read((PROMISING | TOGETHER | SILENT)[kind](tmp_path))
    assert result.gaps == []
    assert result.numbers == list(range(FRAMES))


@pytest.mark.parametrize("share", [0.7, 0.8])
@pytest.mark.parametrize("kind", PROMISING)
def test_the_lost_end_of_a_file_is_a_gap(kind: str, share: float, tmp_path: Path) -> None:
    whole = PROMISING[kind](tmp_path)
    path = videos.truncated(whole, tmp_path / f"cut{whole.suffix}", share)
    result = read(path)
    assert sorted(result.numbers + result.lost) == list(range(FRAMES))
    assert result.gaps[-1].to_frame == FRAMES - 1
    assert result.gaps[-1].reason == "cut off"
    assert result.checkpoints[-1][0] == FRAMES
    for frame, pts in result.checkpoints[:: len(result.checkpoints) // 3]:
        again = read(path, frame=frame, pts=pts)
        assert again.frames == [one for one in result.frames if one[0] >= frame]
        assert again.gaps == [Gap(max(frame, gap.from_frame), gap.to_frame, gap.reason)
                              for gap in result.gaps if gap.to_frame >= frame]  # fmt: skip


@pytest.mark.parametrize("share", [0.6, 0.7])
@pytest.mark.parametrize("kind", TOGETHER)
def test_the_lost_end_is_a_gap_as_exactly_as_sound_tells(
    kind: str, share: float, tmp_path: Path
) -> None:
    whole = TOGETHER[kind](tmp_path)
    path = videos.truncated(whole, tmp_path / f"cut{whole.suffix}", share)
    result = read(path)
    assert result.gaps[-1].reason == "cut off"
    assert FRAMES - SOUND_FRAMES <= result.gaps[-1].to_frame + 1 <= FRAMES
    frame, pts = result.checkpoints[len(result.checkpoints) // 2]
    assert read(path, frame=frame, pts=pts).gaps == result.gaps


@pytest.mark.parametrize("kind", SILENT)
def test_where_nothing_is_promised_the_frames_end(kind: str, tmp_path: Path) -> None:
    whole = SILENT[kind](tmp_path)
    result = read(videos.truncated(whole, tmp_path / f"cut{whole.suffix}", 0.6))
    assert 0 < len(result.numbers) < FRAMES
    assert [gap for gap in result.gaps if gap.reason == "cut off"] == []


def test_a_video_that_ends_before_its_sound_is_whole(tmp_path: Path) -> None:
    whole = joined_with_longer_sound(tmp_path)
    assert read(whole).gaps == []
    cut = read(videos.truncated(whole, tmp_path / "cut.mkv", 0.6))
    assert 0 < len(cut.numbers) < FRAMES
    assert cut.gaps[-1].reason == "cut off"  # how many, only the lost sound could tell
    assert cut.gaps[-1].to_frame >= FRAMES - 1


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4", "mov"])
@pytest.mark.parametrize("duration", [0, 40])
def test_one_picture_without_a_rate_lacks_nothing(
    suffix: str, duration: int, tmp_path: Path
) -> None:
    """FFmpeg takes the clock of the container, 1,000 ticks a second, for the rate."""
    raw = videos.encode(tmp_path / "a.264", 1)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(raw)) as given, av.open(str(path), "w") as output:
        copy = output.add_stream_from_template(given.streams.video[0])
        packet = next(packet for packet in given.demux() if packet.size)
        packet.stream, packet.time_base = copy, Fraction(1, 1000)
        packet.pts = packet.dts = 0
        packet.duration = duration
        output.mux(packet)
    result = read(path)
    assert (result.numbers, result.lost) == ([0], [])


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_pictures_at_uneven_times_are_no_loss(suffix: str, tmp_path: Path) -> None:
    result = read(videos.encode(tmp_path / f"a.{suffix}", len(UNEVEN), times=UNEVEN))
    assert result.numbers == list(range(len(UNEVEN)))
    assert result.gaps == []


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_a_picture_alone_lasts_as_long_as_its_file(suffix: str, tmp_path: Path) -> None:
    """Without a rate in the header FFmpeg takes that of the clock, 1,000 a second."""
    path = write(tmp_path / f"a.{suffix}", Structure((Group(1, 0),), suffix))
    result = read(path)
    assert (result.numbers, result.gaps) == ([0], [])


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_an_avi_may_begin_with_empty_chunks(codec: str, tmp_path: Path) -> None:
    whole = videos.encode(tmp_path / "a.mkv", FRAMES, codec=codec, options={"bf": "2"})
    path = tmp_path / "b.avi"
    with av.open(str(whole)) as given, av.open(str(path), "w") as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts + 7777, packet.dts + 7777
                packet.stream = copy
                output.mux(packet)
    result = read(path)
    assert (result.numbers, result.gaps) == (list(range(FRAMES)), [])


def test_pictures_of_an_animated_png_last_as_long_as_each_says(tmp_path: Path) -> None:
    times = [sum(range(40, 40 + 20 * n, 20)) for n in range(9)]
    path = videos.encode(tmp_path / "a.apng", 9, codec="apng", options={}, pix_fmt="rgb24",
                         times=times)  # fmt: skip
    result = read(path)
    assert (result.numbers, result.gaps) == (list(range(9)), [])
    content = path.read_bytes()
    at = content.index(b"acTL") + 4
    path.write_bytes(content[:at] + (2**31 - 1).to_bytes(4, "big") + content[at + 4 :])
    assert read(path).gaps == []  # a damaged header


def test_a_header_that_promises_more_pictures_than_bytes_is_damaged(tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "a.avi", FRAMES, codec="mpeg4", options={})
    content = path.read_bytes()
    at = content.index(b"vids") - 8 + 8 + 32  # dwLength of the stream's header
    assert int.from_bytes(content[at : at + 4], "little") == FRAMES
    path.write_bytes(content[:at] + (2**31 - 1).to_bytes(4, "little") + content[at + 4 :])
    assert read(path).gaps == []


def reached(stamps: list[int], duration: int | None = None) -> Reach:
    reach = Reach()
    for stamp in stamps:
        packet = SimpleNamespace(pts=stamp, dts=stamp, duration=duration)
        reach.see(cast("Any", packet))
    return reach


@given(st.integers(10, 200), st.integers(0, 100), st.sampled_from([None, 0, 40]))
def test_an_even_video_lacks_what_was_cut(frames: int, cut: int, duration: int | None) -> None:
    reach = reached([n * 40 for n in range(frames)], duration)
    promise = Promise(Fraction((frames + cut) * 40), Fraction(40))
    assert reach.lacks(promise) == (cut if cut > 1 else 0)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50), st.integers(0, 39))
def test_a_whole_video_of_any_rate_lacks_nothing(steps: list[int], more: int) -> None:
    stamps = [sum(steps[:n]) for n in range(len(steps) + 1)]
    promise = Promise(Fraction(stamps[-1] + 40 + more), Fraction(40))
    assert reached(stamps).lacks(promise) == 0


def test_a_source_without_packets_lacks_nothing_that_could_be_counted() -> None:
    assert Reach().lacks(Promise(Fraction(1000), Fraction(40))) == 0
