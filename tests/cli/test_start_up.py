"""Quick commands load little: the slow imports stay out of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from tests.support.shell import Shell
from vidan.cli import main
from vidan.config import Settings
from vidan.orchestrator import Orchestrator

HEAVY = (
    "torch", "torchvision", "av", "decord", "numpy", "confluent_kafka", "pydantic", "alembic",
    "jsonschema", "rich", "typer._adapters", "sqlalchemy.orm", "vidan.db.tables", "fastapi",
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
    return done.stderr.splitlines()[-1].split()


def test_help_loads_neither_services_nor_anything_heavy(bare: Shell) -> None:
    assert loaded(bare, "--help") == []


@pytest.mark.parametrize(
    "command",
    [
        "scenario list --limit 5 --status active",
        "scenario create --no-check street.mp4",
        "scenario show 1",
        "workers list",
        "predictions show 1",
        "db check",
        "tasks list",
        "dead list",
    ],
)
def test_commands_on_the_database_load_nothing_heavy(vidan: Shell, command: str) -> None:
    vidan("scenario", "create", "--no-check", "street.mp4")

    assert loaded(vidan, *command.split()) == []


def test_a_probe_loads_nothing_heavy(vidan: Shell, database_url: str) -> None:
    orchestrator = Orchestrator(Settings(home=vidan.folder, database_url=database_url))
    orchestrator.expire()
    assert loaded(vidan, "doctor", "--probe", "--stuck") == []
    orchestrator.close()


def test_of_a_group_only_the_command_that_is_called_is_made() -> None:
    group = main.Commands(name="vidan")
    context = typer.Context(group)

    def made(*words: str) -> list[str]:
        _, command, _ = group.resolve_command(context, list(words))
        return list(command.commands)

    assert made("scenario", "list", "--limit", "5") == ["list"]
    assert made("scenarios", "show", "1") == ["show"]
    assert len(made("scenario", "--help", "list")) > 5
    assert len(made("scenario", "lst")) > 5
    assert len(made("scenario")) > 5
