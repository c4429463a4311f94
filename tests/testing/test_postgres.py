"""The PostgreSQL of a test: what it leaves behind is removed, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import eventually
from vidan.testing import postgres


def test_what_a_killed_test_left_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    code = (
        "from vidan.testing import postgres as t\nwith t.postgres(): print(1, flush=True); input()"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == b"1\n"
    server = psutil.Process(killed.pid).children()[0]
    killed.kill()
    killed.communicate()
    assert eventually(lambda: not server.is_running(), 30)
    (left,) = tmp_path.iterdir()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with postgres.postgres():
        (now,) = tmp_path.iterdir()
        assert now != left
    assert list(tmp_path.iterdir()) == []


def another_users(folder: Path, kept: Path) -> None:
    """A folder of the sweep's own names that leads to what must be kept."""
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "postgres").symlink_to(kept)


@pytest.mark.parametrize("root", [False, True])
def test_a_sweep_follows_nobody_elses_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    home = tmp_path / "home"
    (home / "kept").mkdir(parents=True)
    another_users(tmp_path / "vidan-testing-x", home)
    (tmp_path / "vidan-testing-link").symlink_to(home)
    uid = os.geteuid()
    monkeypatch.setattr("vidan.stack.account.OUTSIDE", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else uid + 1)
    if root and uid == 0:
        os.chown(tmp_path / "vidan-testing-x", 65534, 65534)

    postgres._sweep(tmp_path)

    assert (home / "kept").is_dir()
    assert (tmp_path / "vidan-testing-x" / "lock").exists()


@pytest.mark.parametrize("root", [False, True])
def test_a_removal_follows_a_link_only_to_where_roots_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    monkeypatch.setattr("vidan.stack.account.OUTSIDE", tmp_path / "outside")
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    for place, goes in (("outside/data", root), ("outside", False), ("home", False)):
        kept = tmp_path / place
        kept.mkdir(parents=True, exist_ok=True)
        another_users(tmp_path / "vidan-testing-x", kept)

        postgres._remove(tmp_path / "vidan-testing-x")

        assert not (tmp_path / "vidan-testing-x").exists()
        assert kept.exists() != goes
