"""A full disk is called that, and what it cost: here /dev/full, on which nothing fits."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.cli import failures
from vidan.db.session import Database, database_error
from vidan.errors import VidanError
from vidan.export import annotated_video
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario


class _Full(Exception):
    sqlstate = "53100"


def test_the_disk_of_the_database() -> None:
    error = database_error(_Full("could not extend file: No space left on device"))
    assert str(error).startswith("the database's disk is full: could not extend file")
    assert "free space" in (error.hint or "")
    assert error.exit_code == 8


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_of_a_file(number: int) -> None:
    message, hint, code = failures.describe(OSError(number, "No space left", "/data/out.csv"))
    assert message == "the disk is full: /data/out.csv"
    assert "free space" in (hint or "")
    assert code == 1


def test_the_disk_of_a_picture() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(VidanError, match="the disk is full: /dev/full"):
        annotated_video.snapshot(pixels, [], Path("/dev/full"))


def test_exports_and_listings_end_with_one_line(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    with database.begin() as connection:
        one = creation.create(connection, NewScenario(source="/v/a.mp4")).id
    worker.claim()
    worker.store(range(40), found=3)
    for words in (
        ("predictions", "export", one),
        ("predictions", "export", one, "--out", "/dev/full"),
        ("scenario", "list", "--json"),
        ("scenario", "list", "-q"),
    ):
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                vidan.command(*words),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=vidan.environment,
                cwd=vidan.folder,
                timeout=60,
            )
        assert ended.returncode == 1, (words, ended)
        assert "the disk is full" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "Exception ignored" not in ended.stderr
    assert len(vidan("predictions", "export", one).out.splitlines()) == 40
