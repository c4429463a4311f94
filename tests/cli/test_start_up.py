"""Quick commands load little: the slow imports stay out of them."""

from __future__ import annotations

import subprocess
import sys

from tests.support.shell import Shell

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
