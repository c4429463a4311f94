"""Sources with false claims: each is refused with the reason, at little cost."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import pytest

from tests.fuzz import headers
from tests.support import videos
from tests.support.frames import read
from vidan.errors import InputRejected, RejectedTask
from vidan.video import source
from vidan.video.container import open_container
from vidan.video.decoding import Item
from vidan.video.decord import matroska
from vidan.video.opening import check_source, open_source
from vidan.video.sampling import Sampling
from vidan.video.timeline import MAX_TIME_MS, Timeline


def _huge(folder: Path) -> Path:
    """A raw .264 of some kilobytes whose pictures claim 256 million pixels each."""
    small = videos.encode(folder / "small.264", 12, container="h264").read_bytes()
    for seed in range(100):
        content = headers.sps_size(small, Random(seed))
        (folder / "huge.264").write_bytes(content)
        with av.open(str(folder / "huge.264"), options={"max_pixels": "1000"}) as found:
            if found.streams.video[0].width == 16_000:
                return folder / "huge.264"
    raise AssertionError("no seed claims it")


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_pictures_that_are_too_large_are_refused(decoder: str, tmp_path: Path) -> None:
    path = _huge(tmp_path)
    with pytest.raises(RejectedTask, match="too large: 16000 x 16000, the most is 100 million"):
        open_source(str(path), decoder=decoder)
    with pytest.raises(InputRejected, match="too large"):
        check_source(str(path))


def test_pictures_that_grow_too_large_on_the_way_are_damage(tmp_path: Path) -> None:
    path = videos.encode(
        tmp_path / "a.webm", 60, codec="libvpx", options={"g": "20", "deadline": "realtime"}
    )
    content = bytearray(path.read_bytes())
    second = headers.found(content, b"\x9d\x01\x2a")[1]  # a key frame's size
    struct.pack_into("<HH", content, second + 3, 16_000, 16_000)
    path.write_bytes(content)
    got = read(path)
    assert {0, 59} <= set(got.numbers)
    assert len(got.numbers) < 60
    assert sum(gap.to_frame - gap.from_frame + 1 for gap in got.gaps) == 60 - len(got.numbers)


def test_batches_of_large_pictures_have_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.encode(tmp_path / "a.mp4", 10)
    monkeypatch.setattr(source, "MAX_BATCH_BYTES", 2 * videos.WIDTH * videos.HEIGHT * 3)
    assert [len(one.indices) for one in open_source(str(path)).batches(8)] == [2] * 5


@pytest.mark.parametrize(("noted", "total"), [("40", 40), ("99999999999", None), ("9" * 30, None)])
def test_a_number_of_frames_that_cannot_be_is_not_believed(
    noted: str, total: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.mkv"
    with (
        av.open(str(videos.encode(tmp_path / "a.mp4", 30))) as given,
        av.open(str(path), "w") as out,
    ):
        copy = out.add_stream_from_template(given.streams.video[0])
        copy.metadata["NUMBER_OF_FRAMES"] = noted
        for packet in given.demux(given.streams.video[0]):
            packet.stream = copy
            if packet.size:
                out.mux(packet)
    got = read(path)
    assert (got.total, len(got.frames)) == (total, 30)
    assert [(gap.from_frame, gap.to_frame) for gap in got.gaps] == ([(30, 39)] if total else [])


def test_a_time_that_no_column_holds_is_the_last_one() -> None:
    timeline = Timeline(Fraction(1), Sampling())
    entries = [timeline.add(pts, pts) for pts in (0, 1, 2**62)]
    timeline.finish()
    assert [one.time_ms for one in entries] == [0, 1000, MAX_TIME_MS]


def test_a_packet_of_gigabytes_is_damage(tmp_path: Path) -> None:
    path = videos.encode(
        tmp_path / "a.ivf", 12, codec="libvpx", options={"g": "20", "deadline": "realtime"}
    )
    content = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<I", content, 32)  # a file header, then each packet's size
    struct.pack_into("<I", content, 32 + 12 + size, 2**31 + 7)
    path.write_bytes(content)
    assert read(path).numbers == [0]
    struct.pack_into("<I", content, 32, 2**31 + 7)
    path.write_bytes(content)
    check_source(str(path))  # what follows it may be read


def test_a_stream_that_appears_on_the_way_ends_no_run(tmp_path: Path) -> None:
    """At the end of the file PyAV reads memory that was never set, which may say so."""
    opened = open_container(str(videos.encode(tmp_path / "a.ts", 12)))
    real = opened.container

    class AppearsLate:
        def demux(self, stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
            yield from real.demux(stream)
            raise IndexError("list index out of range")

    opened.container = AppearsLate()  # type: ignore[assignment]
    assert len(list(opened.packets())) == 12
    real.close()


def test_a_list_of_other_files_is_no_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("ffconcat version 1.0\nfile none.mp4\n")
    with pytest.raises(RejectedTask, match="is a list of other files"):
        open_source(str(path))


def test_a_header_alone_ends_before_its_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
    with pytest.raises(RejectedTask, match="the file ends before its first picture"):
        open_source(str(path))


def test_decord_does_not_shift_pictures_past_a_damaged_one(tmp_path: Path) -> None:
    """decord would give the next picture in place of one that it can't decode, and so on."""
    path = videos.encode(tmp_path / "a.mkv", 12, codec="mjpeg", options={}, pix_fmt="yuvj420p")
    with av.open(str(path)) as found:
        packets = [bytes(one) for one in found.demux(found.streams.video[0]) if one.size]
    gone = packets[3]
    path.write_bytes(path.read_bytes().replace(gone[8:], bytes(len(gone) - 8)))
    assert read(path).lost == [3]
    with pytest.raises(RejectedTask, match=r"decord can't decode .* it is damaged"):
        read(path, decoder="decord")


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt", "size", "why"),
    [
        ("png", "mov", "rgb24", (64, 48), r"its packets \(png\) don't go into a Matroska"),
        ("h263", "3gp", "yuv420p", (128, 96), r"its packets \(h263\) don't go into a Matroska"),
        ("libx264", "mp4", "yuv444p", (1, 200), "it can't give pictures of 1 x 200"),
    ],
)
def test_what_decord_cannot_be_given_is_refused_by_name(
    codec: str, suffix: str, pix_fmt: str, size: tuple[int, int], why: str, tmp_path: Path
) -> None:
    path = videos.encode(
        tmp_path / f"a.{suffix}", 6, codec=codec, options={}, pix_fmt=pix_fmt,
        width=size[0], height=size[1],
    )  # fmt: skip
    assert len(read(path).frames) == 6
    with pytest.raises(RejectedTask, match=f"decord can't decode .*: {why}"):
        read(path, decoder="decord")


def test_decord_is_not_given_a_century(tmp_path: Path) -> None:
    """decord allocates memory for all that time, and its process dies."""
    opened = open_container(str(videos.encode(tmp_path / "a.mp4", 12)))
    items = [Item(packet, None) for packet in opened.packets()]
    assert matroska(opened.stream, items)
    last = items[-1].packet
    assert last.pts is not None
    last.pts += int(100 * 365 * 86_400 / opened.time_base)
    with pytest.raises(ValueError, match="too far apart"):
        matroska(opened.stream, items)
    opened.container.close()
