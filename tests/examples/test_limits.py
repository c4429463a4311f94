"""The example of caps, typed as its first lines say, through the installed command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "limits.py"
VIDAN = Path(sys.executable).parent / "vidan"


def test_the_example_keeps_to_its_caps(
    environment: dict[str, str], vidan_home: Path, tmp_path: Path
) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    environment |= {"VIDAN_HOME": str(vidan_home), "OMP_NUM_THREADS": "1"}

    def vidan(*words: str) -> str:
        return subprocess.run(
            [VIDAN, *words],
            cwd=tmp_path,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        ).stdout

    up = subprocess.Popen(
        [VIDAN, "up", "--cpus", "1", "--slots", "4", "--app", "limits:app"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "up.log").open("wb"),
        text=True,
    )
    try:
        assert up.stdout is not None
        assert up.stdout.readline().startswith("DATABASE_URL="), (tmp_path / "up.log").read_text()
        assert eventually(lambda: "archive" in vidan("tasks", "list", "-q"), 60)
        films = [
            vidan("scenario", "create", "--task", "archive", "--param", f"camera={name}").strip()
            for name in ("north", "east", "south", "west")
        ]
        told = vidan("scenario", "create", "--task", "report", "--param", "camera=north", "--wait")
        vidan("scenario", "wait", *films)

        shown = json.loads(vidan("tasks", "show", "archive", "--json"))
        assert (shown["concurrency"], shown["rate_limit"]) == (2, None)
        assert json.loads(vidan("tasks", "show", "report", "--json"))["rate_limit"] == "2/s"
        result = json.loads(vidan("scenario", "show", told.strip(), "--json"))["result"]
        assert result == "told of north"
        ran = [json.loads(vidan("scenario", "show", one, "--json"))["result"] for one in films]
        for one in ran:
            at_once = [other for other in ran if other["began"] <= one["began"] < other["ended"]]
            assert len(at_once) <= 2
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)
