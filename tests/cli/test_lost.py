"""Lost frames are told: in JSON, in what is said of an end, and by an exit code for scripts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.shell import Shell
from vidan.domain.detection import Gap
from vidan.domain.status import Status

LOST = [Gap(2, 4, "damaged"), Gap(6, 7, "damaged")]
"""5 of 10 frames."""


def create(vidan: Shell, *words: object) -> int:
    ended = vidan("scenario", "create", "--no-check", "/videos/a.mp4", *words)
    assert ended.code == 0, ended.err
    return int(ended.out)


def end(worker: PlayedWorker, gaps: Sequence[Gap], status: Status = Status.COMPLETED) -> None:
    worker.claim()
    worker.store([0, 1, 5, 8, 9], gaps=gaps)
    worker.end(status)


def test_lost_frames_stand_in_every_json(vidan: Shell, worker: PlayedWorker) -> None:
    one = create(vidan)
    end(worker, LOST)
    two = create(vidan)
    for words in (("show", one), ("wait", one)):
        assert vidan("scenario", *words, "--json").json()["lost_frames"] == 5
    listed = vidan("scenario", "list", "--json").json()
    assert {row["id"]: row["lost_frames"] for row in listed} == {one: 5, two: 0}
    assert "5 frames, 5 lost" in vidan("scenario", "wait", one).err


@pytest.mark.parametrize(
    ("most", "code"), [("0", 11), ("4", 11), ("5", 0), ("49.9%", 11), ("50%", 0), (None, 0)]
)
def test_waiting_ends_with_11_if_too_much_was_lost(
    vidan: Shell, worker: PlayedWorker, most: str | None, code: int
) -> None:
    one = create(vidan)
    end(worker, LOST)
    ended = vidan("scenario", "wait", one, *(["--max-lost", most] if most else []))
    assert (ended.code, ended.out) == (code, f"{one}\tcompleted\n")
    said = f"scenario {one} is incomplete: 5 of 10 frames were lost, more than {most}"
    assert (said in ended.err) is (code == 11)


@pytest.mark.parametrize(("status", "code"), [(Status.FAILED, 5), (Status.INACTIVE, 6)])
def test_another_end_counts_before_incomplete(
    vidan: Shell, worker: PlayedWorker, status: Status, code: int
) -> None:
    one = create(vidan)
    end(worker, LOST)
    two = create(vidan)
    if status is Status.INACTIVE:
        worker.claim()
        assert vidan("scenario", "stop", two).code == 0
        worker.end(status)
    else:
        end(worker, [], status)
    assert vidan("scenario", "wait", one, two, "--max-lost", 0).code == code
    assert vidan("scenario", "wait", two, "--max-lost", 0).code == code
    waiting = create(vidan)
    assert vidan("scenario", "wait", one, waiting, "--max-lost", 0, "--timeout", 0).code == 7


def test_create_with_wait_ends_with_11(vidan: Shell, worker: PlayedWorker) -> None:
    words = ["--no-check", "/videos/a.mp4", "--wait", "--max-lost", "10%"]
    process = vidan.start("scenario", "create", *words)
    assert eventually(lambda: vidan("scenario", "list", "--quiet").out != "")
    end(worker, LOST)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 11, err


def test_max_lost_of_create_goes_with_wait(vidan: Shell) -> None:
    ended = vidan("scenario", "create", "--no-check", "/videos/a.mp4", "--max-lost", 0)
    assert ended.code == 2
    assert "--max-lost goes with --wait" in ended.err
    assert vidan("scenario", "list", "--quiet").out == ""


def test_what_was_noticed_about_the_source_is_told_once(vidan: Shell, worker: PlayedWorker) -> None:
    one = create(vidan)
    worker.claim()
    info = '{"width": 720, "height": 576, "sample_aspect_ratio": "16:15"}'
    worker.store([0, 1], source_info=info, notes=["the file grew"])
    worker.store([2], notes=["the file grew", "and more"])
    worker.end(Status.COMPLETED)
    shown = vidan("scenario", "show", one, "--json").json()
    assert shown["source_info"]["sample_aspect_ratio"] == "16:15"
    assert shown["notes"] == ["the file grew", "and more"]
    assert "16:15" in vidan("scenario", "show", one).out
    said = vidan("scenario", "wait", one).err
    assert said.count("the file grew") == 1
    assert f"scenario {one}: and more" in said
    assert vidan("scenario", "start", one, "--from-beginning").code == 0
    again = vidan("scenario", "show", one, "--json").json()
    assert (again["source_info"], again["notes"]) == (None, [])


def test_a_table_shows_lost_frames(vidan: Shell, worker: PlayedWorker) -> None:
    create(vidan)
    end(worker, LOST)
    assert vidan("scenario", "list").out.rstrip("\n").split("\t")[-1] == "5"
