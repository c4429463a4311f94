"""`vidan events`: lines of JSON in a pipe, followed until told otherwise."""

from __future__ import annotations

import json
import signal

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.domain.status import Status


def test_what_is_stored(vidan: Shell, worker: PlayedWorker) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4", "/v/b.mp4", "--name", "street")
    worker.claim()
    worker.end(Status.FAILED, "broken")
    lines = [json.loads(line) for line in vidan("events", "--no-follow").out.splitlines()]
    assert [(one["scenario_id"], one["from"], one["to"]) for one in lines] == [
        (1, None, "init_startup"),
        (2, None, "init_startup"),
        (1, "init_startup", "init_startup_processing"),
        (1, "init_startup_processing", "active"),
        (1, "active", "failed"),
    ]
    assert set(lines[-1]) >= {"id", "at", "reason", "actor", "task", "queue", "name", "source"}
    assert vidan("events", "--no-follow", "--status", "failed", "-q").out == "1\n"
    assert vidan("events", "--no-follow", "--scenario", 2, "-q").out == "2\n"
    assert vidan("events", "--no-follow", "--task", "other").out == ""
    assert len(vidan("events", "--no-follow", "--since", "1h", "--limit", 2).out.splitlines()) == 2
    assert vidan("events", "--no-follow", "--since", "2099-01-01").out == ""


def test_no_such_scenario(vidan: Shell) -> None:
    for follow in ("--follow", "--no-follow"):
        ended = vidan("events", "--scenario", 99, follow)
        assert (ended.code, ended.out) == (3, "")


def test_a_wrong_word_is_2(vidan: Shell) -> None:
    for words in (["--since", "soon"], ["--status", "on"], ["--scenario", "0"], ["--limit", "0"]):
        assert vidan("events", *words).code == 2


def test_it_follows_from_now_on_until_interrupted(vidan: Shell) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    process = vidan.start("events", "--since", "1h")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    vidan("scenario", "create", "--no-check", "/v/b.mp4")
    second = json.loads(process.stdout.readline())
    assert [first["scenario_id"], second["scenario_id"]] == [1, 2]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")


def test_it_ends_after_so_many(vidan: Shell) -> None:
    process = vidan.start("events", "--since", "1h", "--limit", "2", "-q")
    vidan("scenario", "create", "--no-check", "/v/a.mp4", "/v/b.mp4", "/v/c.mp4")
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "1\n2\n")


def test_a_reader_who_has_seen_enough_ends_it(vidan: Shell) -> None:
    process = vidan.start("events", "--since", "1h")
    assert process.stdout is not None
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    assert process.stdout.readline()
    process.stdout.close()
    vidan("scenario", "create", "--no-check", "/v/b.mp4")
    assert process.wait(20) == 0


def test_a_terminal_gets_a_readable_line(vidan: Shell) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    seen = in_terminal(vidan, "events", "--no-follow")
    (line,) = [line for line in seen.splitlines() if "queued" in line]
    assert "detect" in line
    assert "- → queued" in line
    assert json.loads(in_terminal(vidan, "events", "--no-follow", "--json").splitlines()[-1])
