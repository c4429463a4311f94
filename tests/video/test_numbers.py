"""Frame n shows picture n in files of real encoders, with every kind of timestamps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import pytest

from tests.support.numbered import Numbers, copied, encode, resume_differs
from tests.support.structures import Group, Structure, write
from vidan.domain.detection import Gap
from vidan.errors import RejectedTask

X264 = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:keyint=20:scenecut=0:threads=1:qp=20"}
OPEN = {"x264-params": X264["x264-params"] + ":open-gop=1"}
X265 = {"x265-params": "keyint=20:bframes=3:b-adapt=0:qp=20:open-gop=0:log-level=none"}
MPEG2 = {"g": "12", "bf": "2", "b_strategy": "0", "qmin": "2", "qmax": "4"}
MPEG4 = {"g": "12", "bf": "1", "b_strategy": "0", "qmin": "2", "qmax": "4"}
FRAMES, FIELDS = Group(20, 2), Group(14, 2, fields=True)


def _in_decode_order(source: Path, path: Path) -> Path:
    return copied(source, path, lambda _, packet: bytes(packet))


def _kind(content: bytes) -> str:
    """Return the type of an MPEG-4 picture."""
    return "IPBS"[content[content.index(b"\0\0\1\xb6") + 4] >> 6]


def packed(folder: Path) -> Path:
    """Make an AVI as Xvid does: a B picture in the packet before it, a placeholder in its own."""
    source = encode(folder / "a.mkv", codec="mpeg4", options=MPEG4)
    with av.open(str(source)) as given:
        contents = [bytes(packet) for packet in given.demux(video=0) if packet.size]

    def change(place: int, _: av.Packet[av.VideoStream]) -> bytes:
        content = contents[place]
        if _kind(content) == "B":
            return b"\0\0\1\xb6\x50\x00\x7f"
        if place == 0:  # it says that the stream is packed
            at = content.index(b"\0\0\1\xb6")
            content = content[:at] + b"\0\0\1\xb2DivX503b1393p" + content[at:]
        follows = contents[place + 1] if place + 1 < len(contents) else None
        return content + follows if follows and _kind(follows) == "B" else content

    return copied(source, folder / "packed.avi", change)


def _spliced(folder: Path) -> Path:
    """Join recordings whose timestamps jump back, one of them coded in fields."""
    parts = [
        write(folder / "1.ts", Structure((FRAMES,) * 2, "ts")),
        write(folder / "2.ts", Structure((FIELDS,) * 2, "ts")),
        write(folder / "3.ts", Structure((FRAMES,), "ts", "decoded")),
    ]
    (folder / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder / "a.ts"


KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.avi": lambda d: encode(d / "a.avi", options=X264),
    "h264 in decode order.mp4": lambda d: _in_decode_order(
        encode(d / "a.mkv", options=X264), d / "b.mp4"
    ),
    "h264 in decode order.mkv": lambda d: _in_decode_order(
        encode(d / "a.mp4", options=X264), d / "b.mkv"
    ),
    "h264 in decode order.ts": lambda d: _in_decode_order(
        encode(d / "a.mp4", options=X264), d / "b.ts"
    ),
    "open groups in decode order.mkv": lambda d: _in_decode_order(
        encode(d / "a.mp4", options=OPEN), d / "b.mkv"
    ),
    "hevc in decode order.mkv": lambda d: _in_decode_order(
        encode(d / "a.mp4", codec="libx265", options=X265), d / "b.mkv"
    ),
    "hevc.ts": lambda d: encode(d / "a.ts", codec="libx265", options=X265),
    "h264.flv": lambda d: encode(d / "a.flv", options=X264),
    "mpeg2.avi": lambda d: encode(d / "a.avi", codec="mpeg2video", options=MPEG2),
    "mpeg4 in decode order.avi": lambda d: _in_decode_order(
        encode(d / "a.mkv", codec="mpeg4", options=MPEG4), d / "b.avi"
    ),
    "packed.avi": packed,
    "raw.264": lambda d: encode(d / "a.264", options=X264, container="h264"),
    "fields.ts": lambda d: write(d / "a.ts", Structure((FIELDS,) * 4, "ts")),
    "fields without stamps.ts": lambda d: write(
        d / "a.ts", Structure((FIELDS,) * 4, "ts", lone_stamps=True)
    ),
    "fields that begin later.ts": lambda d: write(
        d / "a.ts", Structure((FRAMES, FRAMES, FIELDS, FRAMES, FIELDS), "ts")
    ),
    "raw fields.264": lambda d: write(d / "a.264", Structure((FRAMES, FIELDS, FIELDS), "264")),
    "spliced.ts": _spliced,
    "fields.mp4": lambda d: write(d / "a.mp4", Structure((FIELDS, FRAMES, FIELDS), "mp4")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_has_its_number(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    whole = Numbers(path)
    with av.open(str(path)) as given:
        count = sum(1 for _ in given.decode(video=0))
    assert [index for index, _, _ in whole.frames] == list(range(count))
    assert whole.gaps == []
    if kind != "spliced.ts":  # whose parts are numbered anew
        assert whole.wrong == []
    assert [time for _, _, time in whole.frames] == [number * 40 for number in range(count)]
    differ = [found for at in whole.places[::5] if (found := resume_differs(whole, path, at))]
    assert differ == []


@pytest.mark.parametrize("kind", ["h264.avi", "fields.ts", "packed.avi"])
def test_sampling_uses_the_final_numbers(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    third = Numbers(path, every=3)
    assert [index for index, _, _ in third.frames] == list(range(0, len(third.frames) * 3, 3))
    assert third.wrong == []
    five = Numbers(path, fps=5)
    assert [index for index, _, _ in five.frames] == list(range(0, len(five.frames) * 5, 5))
    assert five.wrong == []


def test_a_resume_begins_at_its_restart_point(tmp_path: Path) -> None:
    """A resume without one would decode the whole file up to its place."""
    path = encode(tmp_path / "a.avi", 300, options=X264)
    whole = Numbers(path, 8)
    place = whole.places[30]
    ordinal, number = place["restart"]
    assert 64 <= place["frame"] - number < 100
    assert ordinal == number
    assert resume_differs(whole, path, place) == ""


OPEN_GROUPS: dict[str, tuple[str, Mapping[str, str]]] = {
    "a.ts": ("mpeg2video", MPEG2),
    "b.avi": ("mpeg2video", MPEG2),
    "c.avi": ("mpeg4", MPEG4),
    "d.ts": ("libx264", OPEN),
    "e.ts": ("libx265", {"x265-params": X265["x265-params"].replace("open-gop=0", "open-gop=1")}),
}


@pytest.mark.parametrize("name", OPEN_GROUPS)
def test_a_resume_begins_at_an_open_group(name: str, tmp_path: Path) -> None:
    """Pictures that lead the restart point are in the decoder when its picture leaves."""
    codec, options = OPEN_GROUPS[name]
    path = encode(tmp_path / name, 150, codec=codec, options=options)
    whole = Numbers(path, 8)
    assert (whole.wrong, whole.gaps) == ([], [])
    places = [at for at in whole.places if at["restart"] is not None]
    assert any(ordinal != number for ordinal, number in (at["restart"] for at in places))
    assert [found for at in places if (found := resume_differs(whole, path, at))] == []


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_a_picture_lost_without_an_error_keeps_its_number(suffix: str, tmp_path: Path) -> None:
    """FFmpeg tells nothing of a zeroed MPEG-2 packet: one picture less leaves the decoder."""
    source = encode(tmp_path / "a.mkv", codec="mpeg2video", options=MPEG2)
    lost: list[int] = []

    def zeroed(place: int, packet: av.Packet[av.VideoStream]) -> bytes:
        if place > 30 and not lost and packet.pts == packet.dts:  # a B picture
            lost.append(place)
            return bytes(packet.size)
        return bytes(packet)

    path = tmp_path / f"b.{suffix}"
    _with_stamps(source, path, zeroed)
    whole = Numbers(path)
    assert len(whole.frames) == 59
    assert len(whole.lost) == 1
    # of an AVI, FFmpeg guesses the timestamps, wrongly beside the picture that it can't read
    assert [index for index, _ in whole.wrong] in ([], [31] if suffix == "avi" else [])
    differ = [found for at in whole.places[::9] if (found := resume_differs(whole, path, at))]
    assert differ == []


def _with_stamps(
    source: Path, path: Path, change: Callable[[int, av.Packet[av.VideoStream]], bytes]
) -> None:
    with av.open(str(source)) as given, av.open(str(path), "w") as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for place, packet in enumerate(one for one in given.demux(stream) if one.size):
            new = av.Packet(change(place, packet))
            new.stream, new.time_base = copy, packet.time_base
            new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
            new.is_keyframe = packet.is_keyframe
            output.mux(new)


def test_a_place_that_cannot_be_known_is_called_uncertain(tmp_path: Path) -> None:
    """A damaged picture among timestamps of decoding: pictures beside it may be misnumbered."""
    structure = Structure((FRAMES,) * 3, "avi", "decoded", frozenset({30}))
    whole = Numbers(write(tmp_path / "a.avi", structure))
    assert whole.gaps == [Gap(30, 30, "damaged, place uncertain")]
    assert {structure.group_of(index) for index, _ in whole.wrong} <= {1}
    assert len(whole.frames) == 59


def test_sources_that_are_read_at_once_do_not_mix(tmp_path: Path) -> None:
    """PyAV keeps what a packet hands on to its picture in one table for all decoders."""
    path = KINDS["h264.avi"](tmp_path)
    found: list[Numbers] = []
    threads = [
        threading.Thread(target=lambda: found.extend(Numbers(path, 8) for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert [(one.wrong, one.gaps) for one in found if one.wrong or one.gaps] == []


@pytest.mark.parametrize(
    "kind",
    [
        "h264 in decode order.mp4",
        "h264 in decode order.mkv",
        "hevc in decode order.mkv",
        "fields.mp4",
    ],
)
def test_decord_numbers_alike(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    whole = Numbers(path, 8, decoder="decord")
    assert whole.frames == Numbers(path, 8).frames
    assert (whole.wrong, whole.gaps) == ([], [])
    differ = [resume_differs(whole, path, at, decoder="decord") for at in whole.places[::3]]
    assert [found for found in differ if found] == []


def test_decord_refuses_groups_that_it_cannot_tell_apart(tmp_path: Path) -> None:
    path = KINDS["open groups in decode order.mkv"](tmp_path)
    with pytest.raises(RejectedTask, match="timestamps are in the order of decoding") as refused:
        Numbers(path, 8, decoder="decord")
    assert "decoder=pyav" in str(refused.value.hint)
