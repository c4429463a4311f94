"""What a FrameSource never does: use up memory, hang, wait forever, read what is no video."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import videos
from tests.support.frames import read
from vidan.errors import InputRejected, RejectedTask, VidanError
from vidan.video.opening import check_source, is_local, open_source

SLOW_CONSUMER = """
import resource, sys, time
from vidan.video.opening import open_source
import av, numpy
if sys.argv[2] == "decord":
    import decord
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
batches = open_source(sys.argv[1], decoder=sys.argv[2]).batches(8)
for _ in range(4):
    next(batches)
    time.sleep(0.5)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def long_720p(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with groups of pictures of x264's default length."""
    options = {"preset": "ultrafast", "x264-params": "keyint=250:scenecut=0:bframes=3"}
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return videos.encode(path, 260, options=options, width=1280, height=720)


@pytest.mark.parametrize(("decoder", "megabytes"), [("pyav", 300), ("decord", 1000)])
def test_memory_is_bounded_with_a_slow_consumer(
    decoder: str, megabytes: int, long_720p: Path
) -> None:
    command = [sys.executable, "-c", SLOW_CONSUMER, str(long_720p), decoder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < megabytes


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return videos.encode(tmp_path / "clip.mp4")


def test_close_ends_the_iteration(clip: Path) -> None:
    source = open_source(str(clip))
    batches = source.batches(4)
    next(batches)
    source.close()
    source.close()
    assert list(batches) == []


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_size_that_raises_leaves_no_file_open(clip: Path, decoder: str) -> None:
    def refuse(height: int, width: int) -> tuple[int, int]:
        raise RejectedTask(f"no size for {height} x {width}")

    with pytest.raises(RejectedTask, match="no size") as refused:
        open_source(str(clip), size=refuse, decoder=decoder)
    opened = [fd.resolve() for fd in Path("/proc/self/fd").iterdir()]
    assert clip.resolve() not in opened
    assert refused.traceback  # which still refers to the container: it was not garbage collected


def test_close_may_come_from_another_thread_while_one_decodes(long_720p: Path) -> None:
    source = open_source(str(long_720p))
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(b.next_frame for b in source.batches(1)))
    reader.start()
    while not got:
        time.sleep(0.01)
    source.close()
    reader.join(30)
    assert not reader.is_alive()
    assert len(got) < 260


def test_torch_is_not_loaded_and_decoders_only_when_a_source_is_opened() -> None:
    code = (
        "import sys, vidan.video.opening as o; o.is_local('x');"
        "assert not {'av', 'decord', 'torch'} & set(sys.modules), 'too early';"
        "import vidan.video.source; assert not {'av', 'decord', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_decoder_is_named_with_the_extra_that_has_it(clip: Path) -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from vidan.video.opening import check_source, open_source\n"
        "from vidan.errors import MissingExtra\n"
        "check_source(sys.argv[1])\n"  # without PyAV: exists and is not empty
        "try: open_source(sys.argv[1])\n"
        "except MissingExtra as error: print(error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clip)], capture_output=True, text=True, check=True
    )
    assert 'pip install "vidan[worker]"' in done.stdout


def _text(folder: Path) -> Path:
    (folder / "a.mp4").write_text("This is no video.\n" * 50)
    return folder / "a.mp4"


def _empty(folder: Path) -> Path:
    (folder / "a.mp4").touch()
    return folder / "a.mp4"


REFUSED: dict[str, Callable[[Path], Path]] = {
    "no such file": lambda d: d / "none.mp4",
    "is a folder": lambda d: d,
    "is empty": _empty,
    "not a video": _text,
    "no video": lambda d: videos.sound_only(d / "a.m4a"),
    "not a video that": lambda d: videos.truncated(videos.encode(d / "1.mp4"), d / "a.mp4", 0.5),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_video_is_refused_in_one_line(why: str, tmp_path: Path) -> None:
    path = REFUSED[why](tmp_path)
    with pytest.raises(InputRejected, match=why) as refused:
        check_source(str(path))
    assert "\n" not in str(refused.value)
    assert refused.value.hint
    with pytest.raises(RejectedTask):
        open_source(str(path))


def _never(*_: object) -> bool:
    return False


def test_a_file_that_may_not_be_read_is_refused(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may read every file: so os.access is replaced."""
    monkeypatch.setattr(os, "access", _never)
    with pytest.raises(InputRejected, match="not allowed"):
        check_source(str(clip))


def test_a_video_passes(clip: Path) -> None:
    check_source(str(clip))
    check_source(clip.as_uri())
    assert read(clip.as_uri()).numbers == list(range(60))


def test_paths_are_told_from_urls() -> None:
    assert all(map(is_local, ["a.mp4", "/x/a:b.mp4", "file:///a.mp4", "C:/a.mp4", "a%20b.mp4"]))
    assert not any(map(is_local, ["rtsp://cam/1", "http://x/a.mp4", "RTMP://x", "udp://@:1234"]))


def test_an_odd_name_is_a_name(tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "concat:a%02d|#?.mp4", 5, container="mp4")
    check_source(str(path))
    assert len(read(path).frames) == 5


@contextmanager
def served(content: bytes, *, length: bool, stall: bool = False) -> Iterator[str]:
    """Serves a video over HTTP: a file with a length, or a stream that may fall silent."""
    gone = threading.Event()

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range") if length else None
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Connection", "close")
            if not length:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(content) - start))
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            self.end_headers()
            try:
                if length:
                    self.wfile.write(content[start:])
                else:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
            except OSError:
                return
            if stall:
                gone.wait(60)
            elif not length:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a"
    finally:
        gone.set()
        server.shutdown()
        server.server_close()


def test_a_file_over_http_is_read_and_resumed_like_one_here(clip: Path) -> None:
    whole = read(clip)
    with served(clip.read_bytes(), length=True) as url:
        assert not open_source(url).live
        got = read(url)
        assert (got.frames, got.total) == (whole.frames, 60)
        place = whole.checkpoints[37]
        assert read(url, frame=place[0], pts=place[1]).frames == whole.frames[38:]


def test_a_live_stream_counts_on(tmp_path: Path) -> None:
    stream = videos.encode(tmp_path / "a.ts")
    whole = read(stream)
    with served(stream.read_bytes(), length=False) as url:
        source = open_source(url, frame=100, pts=time.time_ns() // 1_000_000 - 60_000)
        assert source.live
        assert source.frames_total is None
        batches = list(source.batches(8))
    indices = [int(number) for batch in batches for number in batch.indices]
    assert indices == list(range(100, 160))
    assert 59_000 < batches[0].times[0] < 70_000, "time goes on over the interruption"
    assert batches[-1].next_frame == 160
    assert len(whole.frames) == len(indices)


def test_a_live_stream_that_falls_silent_ends_with_an_error_that_a_retry_mends(
    tmp_path: Path,
) -> None:
    stream = videos.encode(tmp_path / "a.ts")
    with served(stream.read_bytes(), length=False, stall=True) as url:
        began = time.monotonic()
        with pytest.raises(VidanError) as lost:
            for _ in open_source(url, read_timeout=1).batches(8):
                pass
        assert not isinstance(lost.value, RejectedTask)
        assert time.monotonic() - began < 30


def test_a_source_that_does_not_answer_is_worth_a_retry_and_hides_the_password() -> None:
    with pytest.raises(VidanError) as lost:
        open_source("rtsp://user:secret@127.0.0.1:9/live", read_timeout=1)
    assert not isinstance(lost.value, RejectedTask)
    assert "secret" not in str(lost.value)
