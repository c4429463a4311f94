"""Quick commands load little: the slow imports stay out of them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Shell

HEAVY = (
    "torch", "torchvision", "av", "decord", "numpy", "confluent_kafka", "pydantic", "alembic",
    "jsonschema", "rich", "typer._adapters",
)  # fmt: skip

_LOADED = (
    "import sys; from vidan.cli.main import main; code = main(sys.argv[1:]);"
    f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
)


def loaded(shell: Shell, *words: str) -> list[str]:
    """Which of the heavy modules a command has loaded by its end."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *words],
        capture_output=True,
        text=True,
        env=shell.environment,
        cwd=shell.folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_help_loads_neither_services_nor_anything_heavy(bare: Shell) -> None:
    assert loaded(bare, "--help") == []


def test_listing_scenarios_loads_nothing_heavy(vidan: Shell) -> None:
    assert loaded(vidan, "scenario", "list", "--limit", "5", "--status", "active") == []


_BARE_SCRIPT = """
import os, psycopg, sqlalchemy
url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
with sqlalchemy.create_engine(url).begin() as connection:
    query = "SELECT id, status, frames_done, task, source, name, created_at FROM scenarios"
    for row in connection.execute(sqlalchemy.text(query + " ORDER BY id DESC LIMIT 50")):
        print(*row, sep="\\t")
"""


def test_listing_scenarios_is_little_slower_than_a_bare_script(
    vidan: Shell, tmp_path: Path
) -> None:
    script = tmp_path / "bare.py"
    script.write_text(_BARE_SCRIPT)
    assert vidan("scenario", "create", "--no-check", *(f"{n}.mp4" for n in range(50))).code == 0
    ratios = []
    for _ in range(4):  # a busy machine may spoil some
        bare = _best(vidan, [sys.executable, str(script)])
        ours = _best(vidan, vidan.command("scenario", "list"))
        ratios.append(ours / bare)
        if ratios[-1] <= 1.3:
            return
    pytest.fail(f"slower than 1.3 times: {ratios}")


def _best(shell: Shell, command: list[str]) -> float:
    def once() -> float:
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, env=shell.environment, check=True)
        assert done.stdout.count(b"\n") == 50
        return time.perf_counter() - began

    return min(once() for _ in range(3))


_LIGHT = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numpy", "torch", "torchvision", "av", "decord", "PIL"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from vidan.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_the_extra_worker_scenarios_are_created_and_looked_at(
    vidan: Shell, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()

    def light(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _LIGHT, *words],
            capture_output=True,
            text=True,
            env=vidan.environment,
            cwd=tmp_path,
        )

    created = light("scenario", "create", "clip.mp4")
    assert (created.returncode, created.stdout) == (0, "1\n"), created.stderr
    for refused in ("no.mp4", "empty.mp4"):
        assert light("scenario", "create", refused).returncode == 10
    assert light("scenario", "list", "-q").stdout == "1\n"
