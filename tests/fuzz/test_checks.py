"""`vidan scenario create` checks fuzzed videos, and refuses them in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import videos
from tests.fuzz.videos import Fuzzed
from tests.support.folders import new_folder

SEED = int(os.environ.get("FUZZ_SEED", "1"))
COUNT = int(os.environ.get("FUZZ_VIDEOS", str(2 * len(videos.KINDS))))
MEMORY_MB = 1500
CHECK = """
import json, pathlib, re, sys, time
from vidan.video.sources import source_for
from vidan.errors import InputRejected
for place in sys.stdin.read().splitlines():
    began, refused = time.monotonic(), None
    try:
        source_for(place, check=True)
    except InputRejected as error:
        refused = [str(error), error.hint]
    status = pathlib.Path("/proc/self/status").read_text()  # getrusage counts the parent too
    memory = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) >> 10
    print(json.dumps([refused, time.monotonic() - began, memory]), flush=True)
"""
REFUSED = ("empty", "words", "sound-only", "no-frames", "box-sizes", "huge-h264", "playlist")


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[list[Fuzzed]]:
    yield videos.make(new_folder() / "videos", SEED, COUNT)


def test_every_check_ends_soon_and_takes_little_memory(fuzzed: list[Fuzzed]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        input="\n".join(str(one.path) for one in fuzzed),
        capture_output=True,
        text=True,
        timeout=60 + 2 * len(fuzzed),
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(fuzzed), (fuzzed[len(answers)], done.stderr[-2000:])
    for one, (refused, seconds, memory) in zip(fuzzed, answers, strict=True):
        assert seconds < 20, one
        assert memory < MEMORY_MB, one
        assert refused is None or "\n" not in refused[0], one
        assert refused is None or refused[1], one  # each message says how to fix it
        assert refused is None or not one.sound, (one, refused)


@pytest.mark.parametrize("kind", REFUSED)
def test_create_refuses_in_one_line(kind: str, fuzzed: list[Fuzzed], tmp_path: Path) -> None:
    for one in [one for one in fuzzed if one.kind == kind][:1]:
        ended = subprocess.run(
            [sys.executable, "-m", "vidan", "scenario", "create", str(one.path), "--json"],
            env={**os.environ, "VIDAN_HOME": str(tmp_path), "DATABASE_URL": "postgresql://x:1/x"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        # a video that passes the check fails at the database, which does not exist
        assert ended.returncode in ((10,) if kind in REFUSED[:4] else (10, 8)), ended.stderr
        assert ended.stdout == ""
        (line,) = ended.stderr.splitlines()
        assert json.loads(line)["exit_code"] == ended.returncode
