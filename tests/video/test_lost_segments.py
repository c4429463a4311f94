"""A segment that is missing inside a playlist is a gap: later frames keep their numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.support.numbered import Numbers, draw, resume_differs
from vidan.domain.detection import Gap
from vidan.video import playlist as playlists
from vidan.video.playlist import playlist

GROUP = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=2:open-gop=0:qp=20"}


def listed(folder: Path, missing: Sequence[int]) -> Path:
    """Write 60 pictures in segments of ten, and delete some of these."""
    options = {
        "hls_time": "0.4",
        "hls_playlist_type": "vod",
        "hls_segment_filename": str(folder / "s%d.ts"),
    }
    with av.open(str(folder / "list.m3u8"), "w", format="hls", options=options) as output:
        stream = output.add_stream("libx264", rate=25, options=GROUP)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(draw(number), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    for segment in missing:
        (folder / f"s{segment}.ts").unlink()
    return folder / "list.m3u8"


@pytest.mark.parametrize(
    ("missing", "gaps"),
    [
        ((), []),
        ((2,), [(20, 29)]),
        ((1, 2), [(10, 29)]),
        ((1, 3), [(10, 19), (30, 39)]),
    ],
)
def test_later_frames_keep_their_numbers(
    missing: Sequence[int], gaps: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = listed(tmp_path, missing)
    whole = Numbers(path)
    assert whole.wrong == []
    assert whole.gaps == [Gap(first, last, "segment missing") for first, last in gaps]
    assert len(whole.frames) == 60 - 10 * len(missing)
    differ = [resume_differs(whole, path, place) for place in whole.places[::6]]
    assert [found for found in differ if found] == []


@pytest.mark.parametrize(
    ("length", "known"), [("10", True), ("9.009", True), ("1e999999999", False), ("-1", False)]
)
def test_a_playlist_with_an_odd_length_promises_nothing(
    length: str, known: bool, tmp_path: Path
) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXTINF:{length},\na.ts\n#EXT-X-ENDLIST\n")
    assert (playlist(str(path), 5.0) is not None) is known


def test_missing_segments_are_looked_for_within_the_time_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.m3u8"
    segments = "".join(f"#EXTINF:1,\n{n}.ts\n" for n in range(1_000))
    path.write_text(f"#EXTM3U\n{segments}#EXT-X-ENDLIST\n")
    read = playlists._read

    def slow(source: str, timeout: float, most: int) -> bytes:
        time.sleep(0.05 * source.endswith(".ts"))
        return read(source, timeout, most)

    monkeypatch.setattr(playlists, "_read", slow)
    found = playlist(str(path), 0.3)
    assert found is not None
    assert found.seconds == 1_000
    assert 0 < found.lost < 20
