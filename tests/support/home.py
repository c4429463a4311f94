"""A VIDAN_HOME for a test, removed afterwards together with its stack."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.folders import new_folder
from tests.support.processes import eventually, is_gone
from vidan import stack
from vidan.config import load
from vidan.stack_state import KEEPER_LOCK, STATE_FILE, is_held, read_json


@pytest.fixture
def empty_home() -> Iterator[Path]:
    """An empty folder in which an embedded stack was never started.

    Its path is short, and other accounts can enter it. If a stack still runs there at the end
    (because the test failed), it is ended.
    """
    home = new_folder()
    yield home
    remove_home(home)


@pytest.fixture(scope="session")
def home_template() -> Iterator[Path]:
    """A home in which a stack was started once, and has ended."""
    home = new_folder()
    with stack.join(load(environ={"VIDAN_HOME": str(home)}, cwd=home), readers_only=True):
        pass
    assert eventually(lambda: not is_held(home / KEEPER_LOCK, exclusively=True), 60)
    yield home
    remove_home(home)


@pytest.fixture
def vidan_home(home_template: Path, empty_home: Path) -> Path:
    """A home like `empty_home` with an empty migrated database in it, which starts sooner."""
    subprocess.run(["cp", "-a", home_template / "postgres", empty_home], check=True)
    return empty_home


def remove_home(home: Path) -> None:
    """End the stack of a home, then remove the home and the data that its link leads to."""
    time.sleep(0.05)  # the keeper of a passed test is about to end
    if not eventually(lambda: not is_held(home / KEEPER_LOCK, exclusively=True), 3):
        end_keeper(home)
    data = home / "postgres"
    if data.is_symlink():
        shutil.rmtree(data.readlink(), ignore_errors=True)
    shutil.rmtree(home)


def end_keeper(home: Path) -> None:
    """Ask the keeper to stop the stack, and wait for its end."""
    state = read_json(home / STATE_FILE)
    if state is None or is_gone(state["keeper_pid"]):
        return
    os.kill(state["keeper_pid"], signal.SIGTERM)
    eventually(lambda: is_gone(state["keeper_pid"]), 20)
