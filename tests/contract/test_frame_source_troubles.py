"""Sources that cause trouble: lost connections, long ones, resumes far inside, pipes."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from tests.contract.test_frame_source_limits import served
from tests.support import videos
from tests.support.frames import read
from vidan.errors import RejectedTask, VidanError
from vidan.video import container, counting, decoding, reading, resuming
from vidan.video.decoding import Item
from vidan.video.frames import FrameSource
from vidan.video.opening import open_source
from vidan.video.timeline import Entry

LONG = 900
KEPT = 4 * counting.MAX_INSIDE
"""Most packets and numbers held at a time, some groups of pictures of a file included."""


@contextmanager
def fed(folder: Path, content: bytes) -> Iterator[str]:
    """A pipe that a writer fills once."""
    path = folder / "pipe"
    os.mkfifo(path)

    def feed() -> None:
        try:
            path.write_bytes(content)
        except BrokenPipeError:
            return

    feeding = threading.Thread(target=feed, daemon=True)
    feeding.start()
    yield str(path)
    feeding.join(30)


def most_held(source: str) -> int:
    """Read everything; return the most packets and numbers held at a time."""
    most = 0
    for batch in open_source(source).batches(4):
        if batch.next_frame % 100 < 4:
            held = sum(type(one) in (Item, Entry) for one in gc.get_objects())
            most = max(most, held)
    assert batch.next_frame == LONG
    return most


@pytest.mark.parametrize("kind", ["live", "pipe", "file over http", "one core", "raw"])
def test_memory_does_not_grow_with_the_frames(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix = {"raw": ".264", "file over http": ".mp4"}.get(kind, ".ts")
    path = videos.encode(
        tmp_path / f"a{suffix}",
        LONG,
        options={"preset": "ultrafast", "g": "25"},
        container="h264" if kind == "raw" else None,
    )
    if kind == "one core":
        monkeypatch.setattr(decoding, "threads_here", lambda: 1)
    if kind in ("one core", "raw"):
        assert most_held(str(path)) < KEPT
    elif kind == "pipe":
        with fed(tmp_path, path.read_bytes()) as pipe:
            assert most_held(pipe) < KEPT
    else:
        with served(path.read_bytes(), length=kind == "file over http") as url:
            assert most_held(url) < KEPT


def test_a_damaged_pipe_is_read_on_and_not_opened_again(tmp_path: Path) -> None:
    """A second opening would take frames from the first reader, and wait for a writer."""
    whole = videos.encode(tmp_path / "whole.ts", 900, options={"g": "25"})
    path = videos.damaged(whole, tmp_path / "a.ts", 0.002, start=0.4)
    from_file = read(path, 4)
    numbers: list[int] = []

    def follow(source: FrameSource) -> None:
        for batch in source.batches(4):
            numbers.extend(batch.indices.tolist())

    with fed(tmp_path, path.read_bytes()) as pipe:
        source = open_source(pipe)
        assert source.live
        following = threading.Thread(target=follow, args=[source], daemon=True)
        following.start()
        following.join(60)
        assert not following.is_alive()
    assert 0 < len(from_file.numbers) < 900
    assert (
        abs(len(numbers) - len(from_file.numbers)) <= 20
    )  # the decoder can't restart at a key frame
    assert numbers[-1] >= 880


@pytest.mark.parametrize(
    ("suffix", "damage"), [(".264", False), (".ts", False), (".mp4", False), (".mp4", True)]
)
def test_a_long_way_to_the_place_is_told_and_changes_nothing(
    suffix: str, damage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor treats a call of over a minute as a hanging one."""
    monkeypatch.setattr(reading, "MAX_SKIPPED", 10)
    monkeypatch.setattr(resuming, "MAX_WALKED_PACKETS", 10)
    path = videos.encode(
        tmp_path / f"a{suffix}",
        120,
        options={"g": "30"},
        container="h264" if suffix == ".264" else None,
    )
    if damage:
        path = videos.damaged(path, tmp_path / "b.mp4", 0.3, start=0.3)
    whole = read(path, 4)
    at = next(number for number in whole.numbers if number >= 90)
    pts = next((pts for frame, pts in read(path).checkpoints if frame == at), None)

    batches = list(open_source(str(path), frame=at, pts=pts).batches(4))

    on_the_way = [one for one in batches if one.next_frame == at]
    assert len(on_the_way) >= 3
    for one in on_the_way:
        assert (len(one.indices), one.gaps, one.next_pts) == (0, (), pts)
    again = read(path, 4, frame=at, pts=pts)
    assert again.frames == [one for one in whole.frames if one[0] >= at]


def test_a_pipe_that_is_cut_off_in_its_header_is_refused(tmp_path: Path) -> None:
    """Opening the pipe again would wait for a writer."""
    content = videos.encode(tmp_path / "a.mkv").read_bytes()[:400]
    refused: list[BaseException] = []

    def follow(pipe: str) -> None:
        try:
            open_source(pipe)
        except VidanError as error:
            refused.append(error)

    with fed(tmp_path, content) as pipe:
        following = threading.Thread(target=follow, args=[pipe], daemon=True)
        following.start()
        following.join(60)
    assert isinstance(refused[0], RejectedTask)


class DroppedOut:
    """A container whose storage disappears after some packets."""

    def __init__(self, inner: Any, code: int) -> None:
        self._inner = inner
        self._code = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        for number, packet in enumerate(self._inner.demux(stream)):
            if number >= 20:
                av.error.err_check(-self._code, "a.mp4")
            yield packet


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN])
def test_storage_that_drops_out_is_no_damage(code: int, tmp_path: Path) -> None:
    source = open_source(str(videos.encode(tmp_path / "a.mp4")))
    opened = source._opened  # type: ignore[attr-defined]
    opened.container = DroppedOut(opened.container, code)
    with pytest.raises(VidanError, match="can't read") as lost:
        list(source.batches(4))
    assert not isinstance(lost.value, RejectedTask)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("readable", [True, False])
def test_a_file_that_cannot_be_opened_just_now_is_tried_again(
    code: int, readable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.encode(tmp_path / "a.mp4")

    def refusing(*_: object, **__: object) -> None:
        av.error.err_check(-code, str(path))

    monkeypatch.setattr(container.import_av(), "open", refusing)
    if not readable:
        monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(VidanError) as lost:
        open_source(str(path))
    of_the_file = readable and code == errno.EIO  # as for a truncated Matroska
    assert isinstance(lost.value, RejectedTask) == of_the_file
    assert ("can't open" in str(lost.value)) != of_the_file
