"""`vidan predictions …`: one frame a line, in order, frames without detections too."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.cli import selection
from vidan.domain.detection import Detection
from vidan.domain.status import Status
from vidan.services.predictions import StoredFrame


@pytest.fixture
def stored(vidan: Shell, worker: PlayedWorker) -> int:
    """A scenario that is `active`: frames 0–9 with a person and a car, 10–14 with nothing."""
    ended = vidan("scenario", "create", "--no-check", "/videos/a.mp4")
    assert ended.code == 0, ended.err
    worker.claim()
    worker.store(range(10), found=2, total=15)
    worker.store(range(10, 15), found=0, total=15)
    return int(ended.out)


def frames(out: str) -> list[int]:
    return [json.loads(line)["frame"] for line in out.splitlines()]


def test_show_prints_json_lines(vidan: Shell, stored: int) -> None:
    lines = vidan("predictions", "show", stored, "--json").out.splitlines()
    assert frames("\n".join(lines)) == list(range(15))
    assert json.loads(lines[1]) == {
        "scenario_id": stored,
        "frame": 1,
        "time_ms": 40,
        "detections": [
            {"label": "person", "score": 0.9, "box": [0, 2, 30, 40], "track_id": None},
            {"label": "car", "score": 0.8, "box": [1, 2, 31, 40], "track_id": None},
        ],
    }
    assert json.loads(lines[14])["detections"] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", 3, "--to", 5], [3, 4, 5]),
        (["--limit", 2], [0, 1]),
        (["--from", 8, "--only-detections"], [8, 9]),
        (["--only-detections", "--limit", 3, "--from", 6], [6, 7, 8]),
        (["--label", "bus", "--only-detections"], []),
        (["--from", 8, "--label", "bus"], [8, 9, 10, 11, 12, 13, 14]),
        (["--min-score", 0.95, "--only-detections"], []),
        (["--from", 8, "--min-score", 0.9, "--only-detections"], [8, 9]),  # the score itself
        (["--from", 99], []),
    ],
)
def test_show_narrows(vidan: Shell, stored: int, words: list[object], expected: list[int]) -> None:
    assert frames(vidan("predictions", "show", stored, "--json", *words).out) == expected
    quiet = vidan("predictions", "show", stored, "-q", *words).out
    assert [int(line) for line in quiet.splitlines()] == expected


def test_show_narrows_detections(vidan: Shell, stored: int) -> None:
    words = ["--label", "car", "--label", "bus", "--limit", 1]
    record = vidan("predictions", "show", stored, "--json", *words).json()
    assert [one["label"] for one in record["detections"]] == ["car"]


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_label_that_nothing_has_is_told(
    vidan: Shell, stored: int, worker: PlayedWorker, command: str
) -> None:
    worker.end(Status.COMPLETED)
    words = ["predictions", command, stored, "--label", "persn", "--label", "car"]
    ended = vidan(*words)
    assert ended.code == 0
    assert "no detection has the label 'persn'; found: car, person" in ended.err
    assert "no detection" not in vidan(*words[:-2], "--limit", 1).err  # it may come later
    assert "no detection" not in vidan(*words, "-q").err


def test_a_label_keeps_to_its_field() -> None:
    frame = StoredFrame(1, 0, 0, (Detection((0, 0, 1, 1), "th\ting;\x1b[31m x", 0.5),))
    assert selection.for_pipes(frame).count("\t") == 2
    for shown in (selection.for_pipes(frame).replace("\t", ""), selection.for_people(frame)):
        assert shown.isprintable()


def test_show_in_a_pipe_is_tab_separated(vidan: Shell, stored: int) -> None:
    lines = vidan("predictions", "show", stored).out.splitlines()
    assert lines[1] == "1\t40\tperson 0.9000 0.0 2.0 30.0 40.0\tcar 0.8000 1.0 2.0 31.0 40.0"
    assert lines[12] == "12\t480"


def test_pages_join_without_a_seam(
    vidan: Shell, stored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "PAGE", 4)
    assert frames(vidan("predictions", "show", stored, "--json").out) == list(range(15))
    assert frames(vidan("predictions", "export", stored).out) == list(range(15))


def test_watch_follows_to_the_end(vidan: Shell, stored: int, worker: PlayedWorker) -> None:
    process = vidan.start("predictions", "watch", stored, "--json", "--from", "12")
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(3)]
    worker.store(range(15, 20))
    seen += [process.stdout.readline() for _ in range(5)]
    worker.store(range(20, 22))
    worker.end(Status.COMPLETED)
    out, err = process.communicate(timeout=30)
    assert frames("".join(seen) + out) == list(range(12, 22))
    assert process.returncode == 0
    assert "completed" in err


@pytest.mark.parametrize(("end", "code"), [("completed", 0), ("failed", 5), ("inactive", 6)])
def test_watch_ends_with_how_it_ended(
    vidan: Shell, stored: int, worker: PlayedWorker, end: str, code: int
) -> None:
    if end == "inactive":
        vidan("scenario", "stop", stored)
    worker.end(Status(end), "broken" if end == "failed" else None)
    ended = vidan("predictions", "watch", stored, "--json")
    assert ended.code == code
    assert frames(ended.out) == list(range(15))


def test_watch_ends_when_it_has_what_was_asked_for(vidan: Shell, stored: int) -> None:
    assert frames(vidan("predictions", "watch", stored, "--limit", 2, "--json").out) == [0, 1]
    assert frames(vidan("predictions", "watch", stored, "--to", 1, "--json").out) == [0, 1]


def test_watch_ends_once_the_last_frame_has_been_passed(
    vidan: Shell, stored: int, worker: PlayedWorker
) -> None:
    """It is never stored: every fifth is, or it is one that was lost."""
    process = vidan.start("predictions", "watch", stored, "--to", 17, "--from", 13, "-q")
    assert process.stdout is not None
    assert [int(process.stdout.readline()) for _ in range(2)] == [13, 14]
    worker.store([15])
    assert process.stdout.readline() == "15\n"
    assert process.poll() is None  # the next may be 17
    worker.store([20])
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 0


def test_watch_begins_again_when_the_scenario_does(
    vidan: Shell, stored: int, worker: PlayedWorker
) -> None:
    process = vidan.start("predictions", "watch", stored, "-q")
    assert process.stdout is not None
    assert [int(process.stdout.readline()) for _ in range(15)] == list(range(15))
    # as if a worker had done the first frames again between two looks
    vidan("scenario", "stop", stored)
    with worker.database.begin() as connection:
        from sqlalchemy import text

        connection.execute(text("UPDATE scenarios SET checkpoint = 0, label_names = '{}'"))
        connection.execute(text("DELETE FROM predictions"))
    worker.checkpoint = 0
    worker.store(range(2))
    assert [int(process.stdout.readline()) for _ in range(2)] == [0, 1]
    worker.end(Status.INACTIVE)
    process.communicate(timeout=30)
    assert process.returncode == 6


def test_ctrl_c_ends_the_watching_alone(vidan: Shell, stored: int) -> None:
    process = vidan.start("predictions", "watch", stored)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"vidan scenario stop {stored}" in err
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_ends_it_quietly(
    vidan: Shell, stored: int, worker: PlayedWorker
) -> None:
    process = vidan.start("predictions", "watch", stored)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    worker.store(range(15, 20))  # it notices with the next line that it writes
    assert process.wait(10) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_export_writes_a_file_whole_or_not_at_all(
    vidan: Shell, stored: int, tmp_path: Path
) -> None:
    ended = vidan("predictions", "export", stored, "--out", "x.jsonl")
    assert (ended.code, ended.out) == (0, "")
    assert frames((tmp_path / "x.jsonl").read_text()) == list(range(15))
    assert ended.err.splitlines() == [
        "15 frames written to x.jsonl",
        f"scenario {stored} is active: it may store more frames",
    ]
    before = sorted(tmp_path.iterdir())
    assert vidan("predictions", "export", 99, "--out", "y.jsonl").code == 3
    assert vidan("predictions", "export", stored, "--out", ".").code == 10
    assert vidan("predictions", "export", stored, "--out", "no/y.jsonl").code == 10
    assert sorted(tmp_path.iterdir()) == before


def test_export_goes_through_a_pipe_and_behind_a_link(
    vidan: Shell, stored: int, tmp_path: Path
) -> None:
    """As it is: a device would be gone for everybody, had a file taken its name."""
    pipe, link = tmp_path / "pipe", tmp_path / "link.jsonl"
    os.mkfifo(pipe)
    link.symlink_to("behind.jsonl")
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    assert vidan("predictions", "export", stored, "--out", pipe).code == 0
    assert frames(reader.communicate(timeout=30)[0]) == list(range(15))
    assert pipe.is_fifo()
    assert vidan("predictions", "export", stored, "--out", link).code == 0
    assert link.is_symlink()
    assert frames((tmp_path / "behind.jsonl").read_text()) == list(range(15))


def test_export_to_standard_output_by_its_name(vidan: Shell, stored: int) -> None:
    ended = vidan.run("predictions", "export", stored, "--out", "/dev/fd/1")
    assert frames(ended.out) == list(range(15))


def test_export_as_csv_is_a_detection_a_line(vidan: Shell, stored: int) -> None:
    out = vidan("predictions", "export", stored, "--format", "csv").out
    table = list(csv.DictReader(io.StringIO(out)))
    assert len(table) == 20
    assert table[3] == {
        "scenario_id": str(stored), "frame": "1", "time_ms": "40", "label": "car", "score": "0.8",
        "x1": "1.0", "y1": "2.0", "x2": "31.0", "y2": "40.0", "track_id": "",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["show", "watch", "export"])
def test_no_such_scenario(vidan: Shell, command: str) -> None:
    ended = vidan("predictions", command, 77)
    assert (ended.code, ended.out) == (3, "")


def test_render_draws_what_is_stored(
    vidan: Shell, worker: PlayedWorker, video: Path, tmp_path: Path
) -> None:
    assert vidan("scenario", "create", "clip.mp4").code == 0
    assert vidan("predictions", "render", 1, "early.mp4").code == 10
    worker.claim()
    worker.store(range(6), found=2)
    worker.end(Status.COMPLETED)
    ended = vidan("predictions", "render", 1, "drawn.mp4")
    assert (ended.code, ended.out) == (0, ""), ended.err
    import av

    with av.open(str(tmp_path / "drawn.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) == 6
    with worker.database.begin() as connection:  # of one's own, which means something else by them
        params = '{"every": "10m", "fps": "many", "decoder": "h264"}'
        connection.execute(
            text("UPDATE scenarios SET task = 'mine', params = CAST(:p AS jsonb)"), {"p": params}
        )
    assert vidan("predictions", "render", 1, "drawn.mp4").code == 0
    assert vidan("predictions", "render", 1, "no/drawn.mp4").code == 10
    video.unlink()
    assert vidan("predictions", "render", 1, "again.mp4").code == 10


def test_the_source_is_never_written_to(
    vidan: Shell, worker: PlayedWorker, video: Path, tmp_path: Path
) -> None:
    assert vidan("scenario", "create", "clip.mp4").code == 0
    worker.claim()
    worker.store(range(6), found=2)
    before = video.read_bytes()
    (tmp_path / "link.mp4").symlink_to(video)
    for words in (["export", 1, "--out"], ["render", 1]):
        for name in ("clip.mp4", video, "link.mp4"):
            ended = vidan("predictions", *words, name)
            assert ended.code == 10
            assert "would be overwritten" in ended.err
    results = tmp_path / "results"
    results.mkdir()
    video.rename(results / "annotated.mp4")
    ended = vidan("run", "results/annotated.mp4", "--out", "results")
    assert ended.code == 10
    assert "would be overwritten" in ended.err
    assert (results / "annotated.mp4").read_bytes() == before


@pytest.mark.parametrize("name", ["drawn.avi", "drawn", "drawn.txt"])
def test_what_is_drawn_is_called_an_mp4(vidan: Shell, stored: int, name: str) -> None:
    ended = vidan("predictions", "render", stored, name)
    assert ended.code == 10
    assert "such as drawn.mp4" in ended.err


def test_what_has_ended_without_a_frame_is_not_waited_for(
    vidan: Shell, worker: PlayedWorker, video: Path
) -> None:
    vidan("scenario", "create", "clip.mp4")
    worker.claim()
    worker.end(Status.FAILED, "broken")
    ended = vidan("predictions", "render", 1, "drawn.mp4")
    assert ended.code == 10
    assert "vidan scenario show 1" in ended.err


def test_what_has_no_file_can_not_be_drawn(vidan: Shell, worker: PlayedWorker) -> None:
    vidan("scenario", "create", "rtsp://camera/1")
    worker.claim()
    worker.store(range(3))
    ended = vidan("predictions", "render", 1, "x.mp4")
    assert ended.code == 10
    assert "rtsp://camera/1" in ended.err
