"""An app of examples/, brought up and used by the installed commands, as its first lines say."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.documents import ROOT
from tests.support.processes import eventually

VIDAN = str(Path(sys.executable).parent / "vidan")


@dataclass(frozen=True)
class Example:
    """A folder with the examples, and a stack that runs the app of one of them."""

    name: str
    folder: Path
    environment: dict[str, str]
    database_url: str

    def vidan(self, *words: object, code: int = 0) -> str:
        """Run the installed command; returns what it prints."""
        return self._run(VIDAN, *words, code=code).stdout

    def refused(self, *words: object, code: int) -> dict[str, Any]:
        """Run the installed command, which has to fail; returns the JSON of the error."""
        failed = self._run(VIDAN, *words, "--json", code=code)
        return dict(json.loads(failed.stderr.splitlines()[-1]))

    def json(self, *words: object) -> Any:
        """Run the installed command; returns the JSON that it prints."""
        return json.loads(self.vidan(*words, "--json"))

    def program(self, *words: object) -> str:
        """Run the example itself as a program; returns what it prints."""
        return self._run(sys.executable, f"{self.name}.py", *words).stdout

    def show(self, scenario_id: object) -> dict[str, Any]:
        """Return a scenario as it is now."""
        return dict(self.json("scenario", "show", scenario_id))

    def ended(self, task: str) -> dict[str, Any]:
        """Wait until there is a scenario of a task and it has ended; returns it."""

        def has_ended() -> bool:
            found = self.json("scenario", "list", "--task", task)
            return bool(found) and found[0]["ended_at"] is not None

        assert eventually(has_ended, 60), self.vidan("scenario", "list")
        (found,) = self.json("scenario", "list", "--task", task)
        return dict(found)

    def _run(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        log = (self.folder / "up.log").read_text()
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{log}"
        return done


class Up(Protocol):
    """Brings up the stack with an example while a block lasts; takes options of `vidan up`."""

    def __call__(self, name: str, *options: object) -> AbstractContextManager[Example]: ...


@pytest.fixture
def up(environment: dict[str, str], vidan_home: Path, tmp_path: Path) -> Up:
    """`vidan up --app NAME:app` in the test's folder, which holds copies of all examples.

    Without `--app` if the test has set VIDAN_APP in its environment.
    """
    environment |= {"VIDAN_HOME": str(vidan_home), "OMP_NUM_THREADS": "1"}
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, tmp_path)

    @contextmanager
    def up(name: str, *options: object) -> Iterator[Example]:
        app = [] if "VIDAN_APP" in environment else ["--app", f"{name}:app"]
        command = [VIDAN, "up", "--cpus", "1", *app, *map(str, options)]
        log = tmp_path / "up.log"
        with log.open("wb") as errors:
            stack = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            assert stack.stdout is not None
            address = stack.stdout.readline().strip()
            assert address.startswith("DATABASE_URL="), log.read_text()
            example = Example(name, tmp_path, environment, address.removeprefix("DATABASE_URL="))
            # a worker publishes the app's tasks when it registers
            assert eventually(lambda: len(example.vidan("tasks", "list", "-q").split()) > 1, 60)
            yield example
        finally:
            stack.send_signal(signal.SIGINT)
            stack.communicate(timeout=60)
        assert stack.returncode == 130, log.read_text()

    return up
