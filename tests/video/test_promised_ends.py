"""The end of playlists and fragments is held against what they list, and nothing whole is cut."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support import videos
from tests.support.frames import read
from vidan.domain.detection import Gap
from vidan.video.fragments import BLOCK, MAX_SAMPLES, Content, boxes, fragments
from vidan.video.playlist import playlist

FRAMES = 110
TS = {"hls_time": "0.8", "hls_list_size": "0"}
FMP4 = TS | {"hls_segment_type": "fmp4"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


def hls(folder: Path, options: dict[str, str] = TS, *, audio: bool = False) -> Path:
    """Segments of 20 frames; the last one has 10."""
    folder.mkdir(exist_ok=True)
    return videos.encode(
        folder / "list.m3u8", FRAMES, audio=audio, container="hls", container_options=options
    )


def segments(playlist: Path) -> list[Path]:
    listed = [one for one in playlist.read_text().splitlines() if one and not one.startswith("#")]
    return [playlist.parent / one for one in listed]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL under which the folder `tmp_path` is served."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("options", [TS, FMP4], ids=["ts", "fmp4"])
def test_the_missing_end_of_a_playlist_is_a_gap(
    options: dict[str, str], audio: bool, tmp_path: Path
) -> None:
    path = hls(tmp_path / "a", options, audio=audio)
    assert read(path, 8).gaps == []
    assert read(path, 8).numbers == list(range(FRAMES))
    last = segments(path)[-1]
    content = last.read_bytes()
    last.unlink()
    result = read(path, 8)
    assert result.numbers == list(range(100))
    assert result.gaps == [Gap(100, 109, "cut off")]
    if options is TS:
        last.write_bytes(content[: len(content) // 2])
        result = read(path, 8)
        assert sorted(result.numbers + result.lost) == list(range(FRAMES))
        assert len(result.lost) > 1


def test_the_missing_end_of_a_playlist_on_a_server_is_a_gap(served: str, tmp_path: Path) -> None:
    path = hls(tmp_path / "a", audio=True)
    url = f"{served}/a/list.m3u8"
    assert read(url, 8).gaps == []
    segments(path)[-1].unlink()
    assert read(url, 8).gaps == [Gap(100, 109, "cut off")]


def test_lengths_in_whole_seconds_are_too_coarse_to_be_held_against(tmp_path: Path) -> None:
    path = hls(tmp_path / "a", TS | {"hls_flags": "round_durations"})
    assert "#EXTINF:1," in path.read_text()
    assert read(path, 8).gaps == []
    segments(path)[-1].unlink()  # which the list says takes a second, or none
    assert read(path, 8).numbers == list(range(100))


def test_a_missing_segment_counts_where_timestamps_jump(tmp_path: Path) -> None:
    path = hls(tmp_path / "a")
    text = path.read_text()
    again = text.partition("#EXTINF")[1] + text.partition("#EXTINF")[2]
    joined = text.replace("#EXT-X-ENDLIST\n", "#EXT-X-DISCONTINUITY\n") + again
    path.write_text(joined)
    assert read(path, 8).gaps == []
    path.write_text(joined.replace("#EXT-X-ENDLIST", "#EXTINF:0.4,\nmissing.ts\n#EXT-X-ENDLIST"))
    assert read(path, 8).gaps == [Gap(220, 229, "cut off")]


def test_a_list_of_variants_promises_what_its_first_one_does(tmp_path: Path) -> None:
    path = hls(tmp_path / "a")
    master = tmp_path / "master.m3u8"
    master.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=90000\na/list.m3u8\n")
    assert read(master, 8).gaps == []
    segments(path)[-1].unlink()
    assert read(master, 8).gaps == [Gap(100, 109, "cut off")]


def test_a_playlist_on_a_server_can_not_name_files_of_this_machine(
    served: str, tmp_path: Path
) -> None:
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:2,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    found = playlist(f"{served}/a.m3u8", 5.0)
    assert found is not None
    assert found.lost == 2


def places(content: bytes, kind: bytes) -> list[int]:
    """Where the contents of boxes of a kind begin."""
    return [at + 4 for at in range(len(content)) if content[at : at + 4] == kind]


@pytest.mark.parametrize("fragment", [1, 2])
@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("flags", ["", "+default_base_moof"])
def test_a_fragment_lists_the_pictures_that_were_cut_off(
    flags: str, audio: bool, fragment: int, tmp_path: Path
) -> None:
    movflags = FRAGMENTED["movflags"] + flags
    whole = videos.encode(
        tmp_path / "a.mp4", 60, audio=audio, container_options={"movflags": movflags}
    )
    assert read(whole, 8).gaps == []
    content = whole.read_bytes()
    path = tmp_path / "cut.mp4"
    for kept in (700, 1200):
        path.write_bytes(content[: places(content, b"mdat")[fragment] + kept])
        result = read(path, 8)
        assert result.gaps[-1].reason == "cut off"
        # groups of 20 pictures are fragments: the begun one is told to its end
        assert sorted(result.numbers + result.lost) == list(range(20 * fragment + 20))


def test_the_duration_of_a_fragmented_movie_is_promised(tmp_path: Path) -> None:
    flags = {"movflags": FRAGMENTED["movflags"] + "+default_base_moof"}
    whole = videos.encode(tmp_path / "a.mp4", 60, container_options=flags)
    content = whole.read_bytes()
    mvex = content.index(b"mvex") - 4
    mehd = (16).to_bytes(4, "big") + b"mehd" + bytes(4) + (2480).to_bytes(4, "big")
    patched = bytearray(content[: mvex + 8] + mehd + content[mvex + 8 :])
    for kind in (b"moov", b"mvex"):
        at = patched.index(kind) - 4
        size = int.from_bytes(patched[at : at + 4], "big") + len(mehd)
        patched[at : at + 4] = size.to_bytes(4, "big")
    path = tmp_path / "b.mp4"
    path.write_bytes(patched)
    assert read(path, 8).gaps == []
    path.write_bytes(
        patched[: places(bytes(patched), b"moof")[-1] - 8]
    )  # a whole fragment is missing
    assert read(path, 8).gaps == [Gap(40, 59, "cut off")]


def test_damaged_boxes_promise_nothing(tmp_path: Path) -> None:
    whole = videos.encode(tmp_path / "a.mp4", 60, container_options=FRAGMENTED)
    random = np.random.default_rng(5)
    content = np.frombuffer(whole.read_bytes(), np.uint8)
    for _ in range(300):
        damaged = content.copy()
        damaged[random.integers(0, len(damaged), 20)] = random.integers(0, 256, 20)
        path = tmp_path / "b.mp4"
        path.write_bytes(damaged.tobytes())
        try:
            found = fragments(path, 1)
        except Exception as error:  # the probe takes any of these for "not known"
            assert not isinstance(error, MemoryError)
        else:
            assert found is None or found.unread <= len(content)


def box(kind: bytes, *content: bytes, size: int | None = None) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I4s", 8 + len(inside) if size is None else size, kind) + inside


MOVIE = box(b"moov", box(b"mvhd", bytes(100)), box(b"mvex", box(b"trex", bytes(24))))


def test_a_list_that_claims_billions_of_pictures_is_bounded(tmp_path: Path) -> None:
    run = box(b"trun", struct.pack(">II", 0, 2**32 - 1), bytes(8), size=2**32 - 1)
    header = box(b"tfhd", struct.pack(">III", 0x10, 1, 1))
    path = tmp_path / "a.mp4"
    path.write_bytes(MOVIE + box(b"moof", box(b"traf", header, run)))
    found = fragments(path, 1)
    assert found is not None
    assert 0 < found.unread <= MAX_SAMPLES


def test_a_file_that_is_cut_while_it_is_looked_at_ends_no_process(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(MOVIE + box(b"free", bytes(3 * BLOCK)) + MOVIE)
    with path.open("r+b") as file:
        content = Content(file.fileno())
        found = boxes(content, 0, len(content))
        assert next(found).kind == b"moov"
        file.truncate(BLOCK)
        with pytest.raises(struct.error):
            list(found)


RATES = [Fraction(25), Fraction(30_000, 1001), Fraction(5)]
SOUNDS = [None, 0.0, 1.5, -0.8]
"""Seconds by which the sound is longer than the video."""
WHOLE = {
    "a.mkv": {},
    "a.flv": {},
    "a.mp4": FRAGMENTED,
    "dash.mp4": {"movflags": "dash+frag_keyframe+empty_moov"},
    "index.mp4": {"movflags": "dash+frag_keyframe+empty_moov+global_sidx"},
    "a.wmv": {},
    "a.m3u8": TS,
    "whole.m3u8": TS | {"hls_flags": "round_durations"},
}


def made(path: Path, rate: Fraction, sound: float | None, start: int, uneven: bool) -> Path:
    """Make 40 frames with B pictures, or at uneven times; stamps begin at `start` seconds."""
    frames, base = 40, Fraction(1, 1000) if uneven else 1 / rate
    random = np.random.default_rng(1)
    steps = random.choice([20, 33, 40, 400], frames) if uneven else np.ones(frames, int)
    times = [int(steps[:n].sum()) for n in range(frames + 1)]
    kind = "hls" if path.suffix == ".m3u8" else None
    with av.open(str(path), "w", format=kind, options=WHOLE[path.name]) as output:
        video = output.add_stream("libx264", rate=rate, options=videos.X264)
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if uneven:
            video.codec_context.time_base = base
        audio = None if sound is None else output.add_stream("aac", rate=8000)
        at = 0
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), "rgb24")
            frame.time_base, frame.pts = base, times[number] + int(start / base)
            output.mux(video.encode(frame))
            until = times[number + 1] * base + (Fraction(sound or 0) if number == 39 else 0)
            while isinstance(audio, av.AudioStream) and at < until * 8000:
                if (sound or 0) >= 0 or at < (times[-1] * base + Fraction(sound or 0)) * 8000:
                    tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), "fltp", "mono")
                    tone.sample_rate, tone.time_base = 8000, Fraction(1, 8000)
                    tone.pts = at + start * 8000
                    output.mux(audio.encode(tone))
                at += 1024
        output.mux(video.encode())
        if isinstance(audio, av.AudioStream):
            output.mux(audio.encode())
    return path


@pytest.mark.parametrize("name", WHOLE)
def test_no_whole_file_lacks_its_end(name: str, tmp_path: Path) -> None:
    bad = []
    for rate, sound, start in product(RATES, SOUNDS, [0, 3]):
        for uneven in {False, rate == 25}:
            path = made(tmp_path / name, rate, sound, start, uneven)
            if any(gap.reason == "cut off" for gap in read(path, 8).gaps):
                bad.append((rate, sound, start, uneven))
    assert bad == []
