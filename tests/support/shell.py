"""Runs the command line in a process of its own, or in this one where only words matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.played_worker import PlayedWorker
from vidan.cli.main import main
from vidan.db.session import Database

LEFT_OUT = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "NO_COLOR")
"""Variables of the environment that the commands must not see."""


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)

    def error(self) -> dict[str, Any]:
        """The JSON of an error, which is the last line of stderr."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])
        assert found["exit_code"] == self.code
        assert set(found) == {"error", "hint", "exit_code"}
        return found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment without settings: no database, no broker, no embedded stack."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in LEFT_OUT and not name.startswith("VIDAN_")
    }
    root = str(Path(__file__).resolve().parents[2])
    return {**kept, "VIDAN_HOME": str(tmp_path / "home"), "PYTHONPATH": root}


@dataclass(frozen=True)
class Shell:
    """Runs `vidan`: `run` in a process of its own, a call in this process, which is quicker."""

    environment: dict[str, str]
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> Ended:
        """Call the command line in this process."""
        self.capture.readouterr()
        for name in LEFT_OUT:
            self.monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.folder)
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = main([str(word) for word in words])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = self.capture.readouterr()
        return Ended(code, out, err)

    def run(self, *words: object, given: str = "", **variables: str) -> Ended:
        """Run the command in a process of its own, with `given` as its stdin."""
        done = subprocess.run(
            self.command(*words),
            input=given,
            capture_output=True,
            text=True,
            env={**self.environment, **variables},
            cwd=self.folder,
            timeout=180,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start the command, and do not wait for it."""
        return subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )

    def command(self, *words: object) -> list[str]:
        """The words of the command line."""
        return [sys.executable, "-m", "vidan", *map(str, words)]


@pytest.fixture
def bare(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """The command without any database."""
    return Shell(environment, tmp_path, monkeypatch, capsys)


@pytest.fixture
def vidan(bare: Shell, database_url: str) -> Shell:
    """The command with a fresh database of the newest schema."""
    bare.environment["DATABASE_URL"] = database_url
    return bare


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    """A worker without a process, which the test directs step by step."""
    return PlayedWorker(database)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """The sample video of the package, under a short name."""
    from vidan.detection import catalogue

    path = tmp_path / "clip.mp4"
    path.symlink_to(catalogue.sample_video())
    return path
