"""The examples of schedules, chains and groups, through the installed command line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.processes import eventually
from tests.support.shell import Shell

EXAMPLES = Path(__file__).parents[2] / "examples"


class Stack:
    """`vidan up` with the app of an example, and the commands beside it."""

    def __init__(self, shell: Shell, app: str, database_url: str) -> None:
        self.shell = shell
        self.app = app
        self.database_url = database_url

    def vidan(self, *words: object) -> Any:
        """What a command prints as JSON."""
        ended = self.shell.run(*words, "--json")
        assert ended.code == 0, ended.err
        return ended.json()

    def start(self, *words: object) -> list[int]:
        """Run the example as a program; the ids that it prints."""
        ran = subprocess.run(
            [sys.executable, f"{self.app}.py", *map(str, words)],
            capture_output=True,
            text=True,
            env=self.shell.environment,
            cwd=self.shell.folder,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        return [int(line) for line in ran.stdout.split()]

    def ended(self, task: str) -> dict[str, Any]:
        """The scenario of a task, once there is one and it has ended."""

        def look() -> bool:
            found = self.vidan("scenario", "list", "--task", task)
            return bool(found) and found[0]["ended_at"] is not None

        assert eventually(look, 60), self.vidan("scenario", "list")
        (found,) = self.vidan("scenario", "list", "--task", task)
        return dict(found)


@contextmanager
def up(shell: Shell, home: Path, app: str) -> Iterator[Stack]:
    shell.environment["VIDAN_HOME"] = str(home)
    shutil.copy(EXAMPLES / f"{app}.py", shell.folder)
    process = shell.start("up", "--cpus", 1, "--app", f"{app}:app")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("DATABASE_URL=")
        stack = Stack(shell, app, url)
        listed = ("tasks", "list")
        assert eventually(lambda: len(stack.vidan(*listed)) > 1, 60)  # the worker is there
        yield stack
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err


@pytest.mark.parametrize("broken", [False, True])
def test_a_chain(bare: Shell, vidan_home: Path, video: Path, broken: bool) -> None:
    with up(bare, vidan_home, "chain") as stack:
        given = bare.folder / "broken.mp4" if broken else video
        if broken:
            given.write_bytes(b"no video")
        (first,) = stack.start(given)
        report = stack.ended("report")

        assert report["parent_id"] == first
        assert report["result"]["of"] == first
        assert report["result"]["status"] == ("failed" if broken else "completed")
        assert report["result"]["title"] == ("broken failed" if broken else "clip")
        if not broken:
            assert report["result"]["result"]["people"] > 4
        assert len(stack.vidan("scenario", "list")) == 2


def test_a_group(bare: Shell, vidan_home: Path) -> None:
    with up(bare, vidan_home, "group") as stack:
        assert stack.start(10, 20, 30) == [1, 2, 3]
        total = stack.ended("total")
        assert total["result"] == {"members": 3, "total": 1400}


def test_a_schedule(bare: Shell, vidan_home: Path) -> None:
    with up(bare, vidan_home, "schedule") as stack:
        assert eventually(lambda: len(stack.vidan("schedules", "list")) == 2, 60)
        daily, weekly = stack.vidan("schedules", "list")
        assert (daily["name"], daily["task"], daily["timezone"]) == (
            "tidy",
            "tidy",
            "Europe/Berlin",
        )
        assert weekly["name"] == "tidy-weekly"
        assert weekly["next_at"].endswith("T12:00:00+00:00")

        paused = stack.vidan("schedule", "pause", "tidy")
        assert (paused["enabled"], paused["next_at"]) == (False, None)
        assert "paused" in bare.run("schedules", "list").out
        stack.vidan("schedules", "resume", "tidy")
        with psycopg.connect(stack.database_url) as connection:  # it was to run a day ago
            connection.execute(
                "UPDATE schedules SET next_at = next_at - interval '1 day' WHERE name = 'tidy'"
            )
        done = stack.ended("tidy")
        assert done["result"] == {"kept_days": 30}
        assert done["labels"] == {"schedule": "tidy"}
        shown = stack.vidan("schedules", "show", "tidy")
        assert shown["last_id"] == done["id"]
        assert done["key"] == f"schedule:tidy:{shown['last_at']}"

        unknown = bare.run("schedules", "show", "nightly", "--json")
        assert unknown.code == 3
        assert "tidy" in json.loads(unknown.err.splitlines()[-1])["error"]
