"""Every command that takes filters takes all of them, and they mean the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import execute
from tests.support.shell import Shell
from vidan.cli.options.filters import OPTIONS, FilterOptions
from vidan.db.session import Database
from vidan.domain.status import Status

VERBS = ["wait", "start", "stop", "retry", "delete"]
FILTERS = {
    "--status": "failed",
    "--label": "batch=7",
    "--task": "detect",
    "--source": "*/north/*",
    "--queue": "night",
    "--since": "1h",
}


@pytest.fixture
def two(vidan: Shell, database: Database) -> Database:
    """The first scenario is another one in all that can be asked for; the second one has failed."""
    vidan("scenario", "create", "--no-check", "/videos/south/1.mp4", "--status", "inactive")
    words = ("--label", "batch=7", "--queue", "night")
    vidan("scenario", "create", "--no-check", "/videos/north/2.mp4", *words)
    worker = PlayedWorker(database, queues=("night",))
    worker.claim()
    worker.end(Status.FAILED, "broken")
    execute(
        database,
        "UPDATE scenarios SET task = 'other', created_at = now() - interval '2 h' WHERE id = 1",
    )
    return database


def test_there_is_a_filter_for_each_option() -> None:
    assert {f"--{name}" for name in OPTIONS} == set(FILTERS)
    assert {f"--{name}" for name in FilterOptions.__dataclass_fields__} == set(FILTERS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_names_them_all(bare: Shell, verb: str) -> None:
    shown = bare("scenario", verb, "--help").out
    assert [name for name in FILTERS if name not in shown] == []


@pytest.mark.parametrize("option", FILTERS)
@pytest.mark.parametrize("verb", VERBS)
def test_each_narrows_each_command(vidan: Shell, two: Database, verb: str, option: str) -> None:
    words = ("scenario", verb, option, FILTERS[option])
    expected = {"wait": 5, "stop": 0}.get(verb, 0)
    ended = vidan(*words, *(["--yes"] if verb == "delete" else []), "-q")
    assert ended.code == expected, ended.err
    assert ended.out == ("" if verb == "stop" else "2\n")
    if verb != "stop":
        left = vidan("scenario", "list", "-q").out
        assert left == ("1\n" if verb == "delete" else "2\n1\n")


def test_a_relative_path_is_that_of_the_scenarios(vidan: Shell, video: Path) -> None:
    vidan("scenario", "create", video, "--status", "inactive")
    ended = vidan.run("scenario", "delete", "--source", video.name, "--yes", "-q")
    assert ended.out == "1\n"


def test_ids_and_filters_exclude_each_other(vidan: Shell) -> None:
    for option, value in FILTERS.items():
        ended = vidan("scenario", "stop", "1", option, value)
        assert ended.code == 2
        assert "exclude" in ended.err
