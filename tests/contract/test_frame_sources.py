"""What every FrameSource does, with PyAV and with decord."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import videos
from tests.support.frames import decodable, digest, read, reference, resumed
from vidan.domain.detection import Gap
from vidan.errors import RejectedTask, UsageError
from vidan.video.opening import open_source

VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "20"}
H265 = {"x265-params": "keyint=20:bframes=3:open-gop=1:log-level=none"}
VFR = [0]
for _step in range(1, 60):
    VFR.append(VFR[-1] + [10, 33, 40, 500][_step * 7 % 4])

Maker = Callable[[Path], Path]

SOUND: dict[str, Maker] = {
    "h264.mp4": lambda d: videos.encode(d / "a.mp4"),
    "h264.mov": lambda d: videos.encode(d / "a.mov"),
    "h264.mkv": lambda d: videos.encode(d / "a.mkv"),
    "with sound.mp4": lambda d: videos.encode(d / "a.mp4", audio=True),
    "fragmented.mp4": lambda d: videos.encode(
        d / "a.mp4", container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "open groups.mp4": lambda d: videos.encode(
        d / "a.mp4", options={"x264-params": "bframes=3:keyint=20:open-gop=1:scenecut=0:b-adapt=0"}
    ),
    "h265 open groups.mp4": lambda d: videos.encode(d / "a.mp4", codec="libx265", options=H265),
    "vp8.webm": lambda d: videos.encode(d / "a.webm", codec="libvpx", options=VP9),
    "vp9.webm": lambda d: videos.encode(d / "a.webm", codec="libvpx-vp9", options=VP9),
    "prores.mov": lambda d: videos.encode(
        d / "a.mov", codec="prores_ks", options={}, pix_fmt="yuv422p10le"
    ),
    "ten bits.mp4": lambda d: videos.encode(d / "a.mp4", pix_fmt="yuv444p10le"),
    "uneven times.mp4": lambda d: videos.encode(d / "a.mp4", times=VFR),
    "uneven times.mkv": lambda d: videos.encode(d / "a.mkv", times=VFR),
    "odd size.mkv": lambda d: videos.encode(
        d / "a.mkv", codec="ffv1", options={}, pix_fmt="bgr0", width=63, height=47
    ),
}
"""Videos of which both decoders give the same frames."""

PYAV_ONLY: dict[str, Maker] = {
    "h264.ts": lambda d: videos.encode(d / "a.ts"),
    "mpeg2.mpg": lambda d: videos.encode(
        d / "a.mpg", codec="mpeg2video", options={"g": "12", "bf": "2"}
    ),
    "h264.flv": lambda d: videos.encode(d / "a.flv"),
    "mpeg4.avi": lambda d: videos.encode(d / "a.avi", codec="mpeg4", options={"g": "20"}),
    "av1.mp4": lambda d: videos.encode(
        d / "a.mp4", 40, codec="libsvtav1", options={"preset": "12", "g": "20"}
    ),
    "raw.264": lambda d: videos.encode(d / "a.264", container="h264"),
    "spliced.ts": lambda d: videos.spliced(
        [
            videos.encode(d / "1.ts", 40),
            videos.encode(d / "2.ts", 30, options={"x264-params": "bframes=0:keyint=15"}),
            d / "1.ts",
        ],
        d / "a.ts",
    ),
    "one edit.mp4": lambda d: videos.cut_by_edit_list(
        videos.encode(d / "1.mp4"), d / "a.mp4", [(13, 30)]
    ),
    "two edits.mp4": lambda d: videos.cut_by_edit_list(
        videos.encode(d / "1.mp4"), d / "a.mp4", [(7, 10), (33, 20)]
    ),
    "intra refresh.mp4": lambda d: videos.encode(
        d / "a.mp4", options={"x264-params": "bframes=0:keyint=20:intra-refresh=1:scenecut=0"}
    ),
}

ALL = [("pyav", name) for name in [*SOUND, *PYAV_ONLY]] + [("decord", name) for name in SOUND]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each video is made once."""
    known: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in known:
            known[name] = (SOUND | PYAV_ONLY)[name](tmp_path_factory.mktemp("video"))
        return known[name]

    return make


@pytest.mark.parametrize(("decoder", "name"), ALL)
def test_frames_are_those_of_a_plain_decode(
    decoder: str, name: str, made: Callable[[str], Path]
) -> None:
    path = made(name)
    got = read(path, 8, decoder=decoder)
    assert got.digests == [digest(pixels) for pixels in reference(path)]
    assert got.numbers == list(range(len(got.frames)))
    assert got.times == sorted(set(got.times))
    assert got.times[0] == 0
    assert got.gaps == []
    assert got.checkpoints[-1][0] == len(got.frames)
    assert got.total in (None, len(got.frames))


@pytest.mark.parametrize(("decoder", "name"), ALL)
def test_a_resume_at_any_frame_is_exact(
    decoder: str, name: str, made: Callable[[str], Path]
) -> None:
    path = made(name)
    whole = read(path, decoder=decoder)
    places = whole.checkpoints if decoder == "pyav" else whole.checkpoints[::7]
    assert [found for at in places if (found := resumed(whole, path, at, decoder=decoder))] == []


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("options", [{"every": 7}, {"fps": 3.0}, {"fps": 24.0}])
def test_a_resume_samples_the_same_frames(
    decoder: str, options: dict[str, Any], made: Callable[[str], Path]
) -> None:
    path = made("uneven times.mp4")
    whole = read(path, decoder=decoder, **options)
    assert 1 < len(whole.frames) < 60
    places = [(n, pts) for n, pts in read(path).checkpoints][::5]
    assert [
        found for at in places if (found := resumed(whole, path, at, decoder=decoder, **options))
    ] == []


def test_times_are_those_of_the_container(made: Callable[[str], Path]) -> None:
    assert read(made("uneven times.mkv")).times == VFR
    spliced = read(made("spliced.ts")).times
    assert spliced == list(range(0, 110 * 40, 40)), "time goes on over a splice"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_sampling(decoder: str, made: Callable[[str], Path]) -> None:
    got = read(made("h264.mp4"), 4, decoder=decoder, every=7)
    assert got.numbers == list(range(0, 60, 7))
    assert got.total == len(got.frames)
    got = read(made("h264.mp4"), 4, decoder=decoder, fps=5.0)
    assert got.times == list(range(0, 2400, 200))
    assert got.total == len(got.frames)
    assert got.checkpoints[-1][0] == 60


def test_nonsense_is_refused(made: Callable[[str], Path]) -> None:
    path = str(made("h264.mp4"))
    with pytest.raises(UsageError, match="together"):
        open_source(path, every=2, fps=1.0)
    with pytest.raises(UsageError, match="opencv"):
        open_source(path, decoder="opencv")
    with pytest.raises(UsageError, match="negative"):
        open_source(path, frame=-1)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_pixels_come_in_the_size_asked_for(decoder: str, made: Callable[[str], Path]) -> None:
    source = open_source(str(made("h264.mp4")), decoder=decoder, size=(24, 32))
    batch = next(source.batches(4))
    assert batch.pixels.shape == (4, 24, 32, 3)
    assert (batch.width, batch.height) == (source.width, source.height) == (64, 48)
    small = reference(made("h264.mp4"))[0].reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(batch.pixels[0] - small).mean() < 8
    source.close()


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_pictures_are_turned_as_shown(turn: int, tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "a.mp4", 5, rotation=turn)
    source = open_source(str(path))
    batch = next(source.batches(5))
    expected = np.rot90(reference(path)[3], turn // 90)
    assert (batch.pixels[3] == expected).all()
    assert (source.height, source.width) == expected.shape[:2] == batch.pixels.shape[1:3]
    source.close()


def test_how_pictures_are_turned_is_known_where_the_first_packet_gives_none(tmp_path: Path) -> None:
    whole = videos.encode(tmp_path / "whole.mp4", 100, rotation=90)
    path = videos.remux(
        whole, tmp_path / "a.mp4", skip=2
    )  # the packets that follow lack their key frame
    source = open_source(str(path))
    batch = next(source.batches(1))
    assert batch.gaps[0].reason == "before the first key frame"
    assert (source.height, source.width) == (videos.WIDTH, videos.HEIGHT)
    source.close()


def test_pictures_are_mirrored_as_shown(tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "a.mp4", 5, mirrored=True)
    source = open_source(str(path))
    assert (next(source.batches(5)).pixels[3] == reference(path)[3][:, ::-1]).all()
    source.close()


# x264's rate control would give other bytes now and then on a busy machine
STEADY = {"x264-params": f"{videos.X264['x264-params']}:qp=25:weightp=0"}
DAMAGE: dict[str, Maker] = {
    "mp4, 10 %": lambda d: videos.damaged(videos.encode(d / "1.mp4", 100), d / "a.mp4"),
    "mp4, 1 %": lambda d: videos.damaged(videos.encode(d / "1.mp4", 100), d / "a.mp4", 0.01),
    "mkv": lambda d: videos.damaged(videos.encode(d / "1.mkv", 100), d / "a.mkv", 0.01, start=0.2),
    "ts": lambda d: videos.damaged(
        videos.encode(d / "1.ts", 100, options=STEADY), d / "a.ts", 0.02, start=0.1
    ),
    "h265": lambda d: videos.damaged(
        videos.encode(d / "1.mp4", codec="libx265", options=H265), d / "a.mp4", 0.02
    ),
    "cut off": lambda d: videos.truncated(
        videos.encode(d / "1.mp4", container_options={"movflags": "faststart"}), d / "a.mp4", 0.6
    ),
    "begins in the middle": lambda d: _without_start(videos.encode(d / "1.ts", 100), d / "a.ts"),
}


def _without_start(source: Path, path: Path) -> Path:
    path.write_bytes(source.read_bytes()[188 * 37 :])
    return path


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_leaves_holes_and_shifts_nothing(kind: str, tmp_path: Path) -> None:
    path = DAMAGE[kind](tmp_path)
    whole = read(path)
    assert len(whole.frames) == decodable(path)
    assert sorted(whole.numbers + whole.lost) == list(range(whole.checkpoints[-1][0]))
    assert read(path, 8).frames == whole.frames, "once more gives the same"
    differences = [resumed(whole, path, at) for at in whole.checkpoints[::4]]
    assert [found for found in differences if found] == []


def test_damage_does_not_shift_numbers(tmp_path: Path) -> None:
    sound = videos.encode(tmp_path / "1.mp4", 100, options={"x264-params": "keyint=5:bframes=2"})
    pictures = dict(enumerate(digest(pixels) for pixels in reference(sound)))
    got = read(videos.damaged(sound, tmp_path / "a.mp4", 0.003))
    assert got.gaps
    assert sum(pictures[number] == found for number, _, found in got.frames) > 60
    assert got.times == [number * 40 for number in got.numbers]


def test_the_rest_of_a_truncated_file_is_a_gap(tmp_path: Path) -> None:
    got = read(DAMAGE["cut off"](tmp_path))
    assert 20 < len(got.frames) < 40
    assert got.gaps[-1].to_frame == 59
    assert got.gaps[-1].reason == "cut off"
    assert got.checkpoints[-1][0] == got.total == 60


def test_what_comes_before_the_first_key_frame_is_a_gap(tmp_path: Path) -> None:
    got = read(DAMAGE["begins in the middle"](tmp_path))
    assert got.gaps == [Gap(0, got.numbers[0] - 1, "before the first key frame")]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (PYAV_ONLY["h264.ts"], "mpegts"),
        (PYAV_ONLY["raw.264"], "h264"),
        (PYAV_ONLY["av1.mp4"], "AV1"),
        (PYAV_ONLY["one edit.mp4"], "edit lists"),
        (DAMAGE["cut off"], "cut off"),
        (DAMAGE["mp4, 10 %"], "damaged"),
        (lambda d: videos.encode(d / "a.mp4", 5, rotation=90), "display matrix"),
    ],
)
def test_decord_refuses_by_name_what_it_cannot_do_exactly(
    make: Maker, why: str, tmp_path: Path
) -> None:
    with pytest.raises(RejectedTask, match=why) as refused:
        read(make(tmp_path), decoder="decord")
    assert "decoder=pyav" in str(refused.value.hint)
