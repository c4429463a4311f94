"""What is read over scenarios: `scenario summary`, `predictions find`, `predictions export`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import execute
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.cli.commands.predictions import several
from vidan.db.session import Database
from vidan.domain.detection import Gap
from vidan.domain.status import Status


@pytest.fixture
def batch(vidan: Shell, worker: PlayedWorker, database: Database) -> Database:
    """Three of a batch: person and car in 4 frames, 2 lost; persons in 3; nothing, still waiting.

    A fourth scenario, of another batch, has one frame with both.
    """

    def create(name: str, number: int) -> None:
        words = ("--no-check", f"/videos/{name}.mp4", "--label", f"batch={number}")
        assert vidan("scenario", "create", *words).code == 0

    def run(found: int, frames: int, gaps: tuple[Gap, ...] = ()) -> None:
        worker.claim()
        worker.store(range(frames), found=found, gaps=gaps)
        worker.end(Status.COMPLETED)

    create("a", 7)
    run(2, 4, (Gap(4, 5, "damaged"),))
    create("b", 7)
    run(1, 3)
    create("d", 8)
    run(2, 1)
    create("c", 7)
    execute(
        database,
        "UPDATE transitions SET at = at - interval '10 s' WHERE to_status = 'active'",
    )
    return database


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# --- summary


def test_the_summary_of_one_is_what_run_prints(vidan: Shell, batch: Database) -> None:
    found = vidan("scenario", "summary", 1, "--json").json()
    assert found.pop("fps") == pytest.approx(0.4, abs=0.05)
    assert found.pop("seconds") == pytest.approx(10, abs=1)
    (alone,) = found.pop("scenarios")
    expected = {
        "scenario_id": 1, "status": "completed", "source": "/videos/a.mp4", "frames": 4,
        "detections": 8, "detections_of": {"person": 4, "car": 4},
        "frames_with": {"person": 4, "car": 4}, "lost_frames": 2, "error": None,
    }  # fmt: skip
    assert found == expected
    assert {name: alone[name] for name in expected} == expected
    shown = dict(line.split("\t") for line in vidan("scenario", "summary", 1).out.splitlines())
    assert (shown["frames"], shown["detections_of"]) == ("4", "person 4, car 4")
    assert vidan("scenario", "summary", 1, "-q").out == "1\n"


def test_the_summary_of_many_has_a_total(vidan: Shell, batch: Database) -> None:
    found = vidan("scenario", "summary", "--label", "batch=7", "--json").json()
    assert (found["frames"], found["detections"], found["lost_frames"]) == (7, 11, 2)
    assert found["detections_of"] == {"person": 7, "car": 4}
    assert found["frames_with"] == {"person": 7, "car": 4}
    assert found["seconds"] == pytest.approx(20, abs=2)
    assert "scenario_id" not in found
    assert [one["frames"] for one in found["scenarios"]] == [4, 3, 0]
    assert [one["fps"] is None for one in found["scenarios"]] == [False, False, True]

    piped = vidan("scenario", "summary", "--label", "batch=7")
    rows = [line.split("\t") for line in piped.out.splitlines()]
    assert [row[:5] for row in rows] == [
        ["1", "completed", "4", "2", "8"],
        ["2", "completed", "3", "0", "3"],
        ["4", "init_startup", "0", "0", "0"],
    ]
    assert rows[0][7:] == ["person 4, car 4", "/videos/a.mp4"]
    assert "total of 3 scenarios: 7 frames, 2 lost, 11 detections" in piped.err
    assert "frames with: person 7, car 4" in piped.err
    shown = in_terminal(vidan, "scenario", "summary", 1, 2)
    assert "FRAMES WITH" in shown and "total of 2 scenarios" in shown


def test_the_summary_of_what_was_pruned(vidan: Shell, batch: Database) -> None:
    execute(batch, "UPDATE scenarios SET pruned = true WHERE id = 2")
    assert vidan("scenario", "summary", 2).code == 3
    ended = vidan("scenario", "summary", 1, 2, "--json")
    assert [one["frames"] for one in ended.json()["scenarios"]] == [4, None]
    assert ended.json()["frames"] == 4
    assert "scenario 2 were pruned" in ended.err


def test_a_start_from_the_beginning_counts_anew(
    vidan: Shell, batch: Database, worker: PlayedWorker
) -> None:
    vidan("scenario", "start", 1, "--from-beginning")
    vidan("scenario", "stop", 4)
    worker.claim()
    worker.store(range(2))
    worker.end(Status.COMPLETED)
    assert vidan("scenario", "summary", 1, "--json").json()["seconds"] < 5


def test_no_scenario_to_summarise(vidan: Shell, batch: Database) -> None:
    assert vidan("scenario", "summary").code == 2
    assert vidan("scenario", "summary", 99).code == 3
    assert vidan("scenario", "summary", "--label", "batch=none").code == 3


# --- find

FOUND = {
    "all": (["--labels-all", "person,car", "--label", "batch=7"], [(1, 0), (1, 1), (1, 2), (1, 3)]),
    "over all scenarios": (["--labels-all", "person,car"], [*((1, n) for n in range(4)), (3, 0)]),
    "any": (["--labels-any", "car,person", "--label", "batch=7"],
            [*((1, n) for n in range(4)), *((2, n) for n in range(3))]),
    "all and any": (["--labels-all", "person", "--labels-any", "car,dog"],
                    [*((1, n) for n in range(4)), (3, 0)]),
    "a score that one has not": (["--labels-all", "person,car", "--min-score", "0.85"], []),
    "a score that one has": (["--labels-any", "person,car", "--min-score", "0.9",
                              "--source", "*/b.mp4"], [(2, 0), (2, 1), (2, 2)]),
    "a label that nobody has": (["--labels-all", "dog"], []),
    "no label": (["2"], [(2, 0), (2, 1), (2, 2)]),
    "a limit": (["--labels-all", "person", "--limit", "5"], [*((1, n) for n in range(4)), (2, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("which", FOUND)
def test_find(vidan: Shell, batch: Database, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "PAGE", 2)
    words, expected = FOUND[which]
    ended = vidan("predictions", "find", *words, "--json")
    assert ended.code == 0, ended.err
    assert [(one["scenario_id"], one["frame"]) for one in lines(ended.out)] == expected
    assert f"{len(expected)} frames found in" in ended.err


def test_what_is_found_has_its_source(vidan: Shell, batch: Database) -> None:
    (found,) = lines(vidan("predictions", "find", 3, "--min-score", "0.9", "--json").out)
    assert found["source"] == "/videos/d.mp4"
    assert [one["label"] for one in found["detections"]] == ["person"]
    piped = vidan("predictions", "find", 3).out
    assert piped.startswith("3\t/videos/d.mp4\t0\t0\tperson 0.9000 0.0 2.0 30.0 40.0\tcar")
    assert vidan("predictions", "find", "--labels-all", "car", "-q").out == "1\n3\n"
    table = vidan("predictions", "find", "--labels-all", "car", "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["source"] for row in rows[-2:]] == ["/videos/d.mp4"] * 2


def test_what_was_pruned_is_found_no_more(vidan: Shell, batch: Database) -> None:
    execute(batch, "UPDATE scenarios SET pruned = true WHERE id = 1")
    ended = vidan("predictions", "find", "--labels-all", "car", "--json")
    assert [one["scenario_id"] for one in lines(ended.out)] == [3]
    assert "skipped: the predictions of scenario 1 were pruned" in ended.err


# --- export


def test_export_of_many_has_the_sources(vidan: Shell, batch: Database, tmp_path: Path) -> None:
    ended = vidan("predictions", "export", "--label", "batch=7", "--out", "all.CSV")
    assert (ended.code, ended.out) == (0, "")
    assert "7 frames written to all.CSV" in ended.err
    assert "scenario 4 is init_startup: it may store more frames" in ended.err
    rows = list(csv.DictReader((tmp_path / "all.CSV").open()))
    assert [row["source"] for row in rows] == ["/videos/a.mp4"] * 8 + ["/videos/b.mp4"] * 3
    assert list(rows[0])[-1] == "source"

    found = lines(vidan("predictions", "export", 2, 1).out)
    assert [one["scenario_id"] for one in found] == [2, 2, 2, 1, 1, 1, 1]
    assert found[0]["source"] == "/videos/b.mp4"
    assert "source" not in lines(vidan("predictions", "export", 2).out)[0]


def test_the_format_is_that_of_the_name(vidan: Shell, batch: Database, tmp_path: Path) -> None:
    for name in ("x.txt", "x.json", "x.csv.gz"):
        ended = vidan("predictions", "export", 1, "--out", name)
        assert (ended.code, ended.out) == (10, "")
        assert ".jsonl or " in ended.err and ".csv" in ended.err
        assert not (tmp_path / name).exists()
    assert vidan("predictions", "export", 1, "--out", "x.txt", "--format", "csv").code == 0
    assert vidan("predictions", "export", 1, "--out", "plain").code == 0
    assert len(lines((tmp_path / "plain").read_text())) == 4


def test_export_skips_what_was_pruned_among_many(vidan: Shell, batch: Database) -> None:
    execute(batch, "UPDATE scenarios SET pruned = true WHERE id = 1")
    assert vidan("predictions", "export", 1).code == 3
    ended = vidan("predictions", "export", 1, 2)
    assert [one["scenario_id"] for one in lines(ended.out)] == [2] * 3
    assert "skipped" in ended.err
    assert vidan("predictions", "export", 2, 99).code == 3
    assert vidan("predictions", "export").code == 2


def test_no_source_is_overwritten(vidan: Shell, batch: Database, tmp_path: Path) -> None:
    video = tmp_path / "b.csv"
    video.write_text("a video")
    execute(batch, f"UPDATE scenarios SET source = '{video}' WHERE id = 2")
    ended = vidan("predictions", "export", "--label", "batch=7", "--out", video)
    assert ended.code == 10
    assert video.read_text() == "a video"
    assert sorted(path.name for path in tmp_path.iterdir() if "part" in path.name) == []
