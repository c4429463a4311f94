"""What a person at a terminal sees: tables, which database it is, no unwanted colours."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.cli.commands.scenario.group import frames
from vidan.cli.following import Bars
from vidan.cli.terminal.progress import FramesColumn, frames_progress
from vidan.db.session import Database
from vidan.detection import catalogue
from vidan.domain.status import Status

if TYPE_CHECKING:
    from vidan.services.scenarios import Scenario


@pytest.fixture
def listed(vidan: Shell) -> Shell:
    """A database with a scenario whose source tries to steer the terminal."""
    vidan("scenario", "create", "--no-check", "/v/[red]\x1b[31mstreet.mp4")
    return vidan


def test_a_terminal_gets_a_table_and_is_told_the_database(listed: Shell) -> None:
    url = listed.environment["DATABASE_URL"]
    assert urlsplit(url).password is None
    listed.environment["DATABASE_URL"] = url.replace("@", f":{quote('ge heim')}@", 1)
    seen = in_terminal(listed, "scenario", "list")
    assert "database: postgresql://" in seen
    assert "heim" not in seen
    assert "STATUS" in seen
    assert "━" in seen or "─" in seen
    assert "[red]" in seen
    assert "\x1b[31mstreet" not in seen


def test_no_color_is_kept(listed: Shell) -> None:
    assert "\x1b" not in in_terminal(listed, "scenario", "list", NO_COLOR="1").replace(
        "\x1b[1m", ""
    ).replace("\x1b[0m", "").replace("\x1b[2m", "")
    failed = in_terminal(listed, "scenario", "show", "99", NO_COLOR="1")
    assert "\nError: no scenario 99\n" in failed
    assert "\x1b[" in in_terminal(listed, "scenario", "show", "99")


def test_quiet_says_nothing_else(listed: Shell) -> None:
    assert in_terminal(listed, "scenario", "list", "-q") == "1\n"


def test_an_empty_list_is_said(vidan: Shell) -> None:
    assert "no scenarios" in in_terminal(vidan, "scenario", "list")
    assert "[]" in in_terminal(vidan, "scenario", "list", "--json")


# --- narrow terminals

HEADINGS = {
    "scenario list": "ID STATUS FRAMES TASK WORKER SOURCE NAME CREATED LOST",
    "scenario history 1": "AT FROM TO ACTOR REASON",
    "workers list": "NAME STATE DEVICE SLOTS SCENARIOS FPS QUEUES SEEN",
    "tasks list": "NAME SOURCE PARAMS SUMMARY CONCURRENCY RATE WORKERS",
    "models list": "NAME LABELS SIZE LICENCE SUMMARY",
    "dead list": "ID KIND ORIGIN AT ERROR",
}
NEVER_LEFT_OUT = {
    "scenario list": ("failed", "/v/street.mp4"),
    "scenario history 1": ("starting", "claimed", "REASON", " UTC"),
    "workers list": ("cpu-0@test", "idle", "FPS"),
    "tasks list": ("detect", "required", "SUMMARY", "WORKERS"),
    "models list": (*(model.name for model in catalogue.models()), "LABELS", "SUMMARY"),
    "dead list": ("detect /v/street.mp4", "scenario", "ERROR"),
}


def in_columns(width: int, shell: Shell, *words: str) -> str:
    """What stands in a terminal so wide, without what makes it bold."""
    seen = in_terminal(shell, *words, COLUMNS=str(width))
    return re.sub(r"\x1b\[[\d;]*m", "", seen)


@pytest.mark.parametrize("command", HEADINGS)
def test_80_columns_show_what_matters_and_name_the_rest(
    vidan: Shell, worker: PlayedWorker, command: str
) -> None:
    vidan("scenario", "create", "--no-check", "/v/street.mp4", "--name", "a street at night")
    worker.claim()
    worker.end(Status.FAILED, "the picture of frame 17 is damaged, and so are those after it")
    seen = in_columns(80, vidan, *command.split())
    table, _, left_out = seen.partition("the terminal is too narrow for ")
    words = set(table.split())
    assert words | set(left_out.partition(";")[0].split(", ")) >= set(HEADINGS[command].split())
    for words_shown in NEVER_LEFT_OUT[command]:
        assert words_shown in table
    if command in ("scenario history 1", "dead list"):
        assert words >= set("the picture of frame 17 is damaged, and so are".split())


def test_a_very_narrow_terminal_gets_a_line_a_value(vidan: Shell) -> None:
    seen = in_columns(60, vidan, "models", "list")
    for model in catalogue.models():
        assert f"NAME     {model.name} " in seen
    assert "too narrow" not in seen


# --- statuses

WORDS = {
    "init_startup": "queued",
    "init_startup_processing": "starting",
    "active": "running",
    "init_shutdown": "stopping",
    "in_shutdown_processing": "stopping",
    "inactive": "stopped",
    "completed": "completed",
    "failed": "failed",
}


def set_status(database: Database, status: str) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET status = :status"), {"status": status})


@pytest.mark.parametrize("status", Status)
def test_a_terminal_reads_words_and_a_pipe_names(
    vidan: Shell, worker: PlayedWorker, database: Database, status: Status
) -> None:
    vidan("scenario", "create", "--no-check", "/v/street.mp4")
    worker.claim()
    set_status(database, status)
    listed = in_columns(120, vidan, "scenario", "list").splitlines()[-1]
    assert listed.split()[:2] == ["1", WORDS[status]]
    assert re.search(
        rf"^status +{WORDS[status]}$", in_columns(120, vidan, "scenario", "show", "1"), re.M
    )
    assert vidan("scenario", "list").out.split("\t")[:2] == ["1", status]
    assert f"status\t{status}\n" in vidan("scenario", "show", 1).out
    assert f'"status": "{status}"' in in_terminal(vidan, "scenario", "list", "--json")
    assert vidan("scenario", "show", 1, "--json").json()["status"] == status
    assert vidan("scenario", "list", "--status", status, "-q").out == "1\n"
    assert in_terminal(vidan, "scenario", "list", "--status", status, "-q") == "1\n"


def test_messages_and_changes_read_words_in_a_terminal_only(vidan: Shell) -> None:
    vidan("scenario", "create", "--no-check", "/v/street.mp4")
    assert vidan("scenario", "stop", 1).out == "1\tinactive\n"
    assert vidan("scenario", "stop", 1).err == "scenario 1 is inactive already\n"
    stopped = in_terminal(vidan, "scenario", "stop", 1)
    assert "1\tstopped\n" in stopped
    assert "scenario 1 is stopped already" in stopped
    assert "scenario 1 is stopped: 0 frames" in in_terminal(vidan, "scenario", "wait", 1)
    assert "scenario 1 is inactive: 0 frames" in vidan("scenario", "wait", 1).err
    events = in_terminal(vidan, "events", "--no-follow")
    assert "- → queued" in events and "queued → stopped" in events
    assert '"to": "inactive"' in vidan("events", "--no-follow").out
    assert vidan("scenario", "history", 1).out.splitlines()[-1].split("\t")[1:3] == [
        "init_startup",
        "inactive",
    ]


def test_a_word_is_no_status_to_filter_by_and_the_error_names_the_status(vidan: Shell) -> None:
    for word in set(WORDS.values()) - set(WORDS):
        refused = vidan("scenario", "list", "--status", word)
        assert refused.code == 2
        for status, shown in WORDS.items():
            assert (status in re.split(r"\W+", refused.err)) == (shown == word)


def played(one: int, **fields: object) -> Scenario:
    given = {"status": Status.ACTIVE, "frames_done": 3, "frames_total": 9, "name": None}
    given |= {"frames_estimated": None, "source": f"/videos/{one}.mkv", "task": "detect"}
    return cast("Scenario", SimpleNamespace(id=one, **(given | fields)))


def test_progress_bars_read_words() -> None:
    with frames_progress() as progress:
        Bars(progress).show([played(7)])
        assert progress.tasks[0].description == "7 running"


def test_several_progress_bars_have_names() -> None:
    with frames_progress() as progress:
        named = played(8, name="a name that is longer than\x1b what fits")
        Bars(progress).show([played(7), named])
        assert progress.tasks[0].description == "7 7.mkv running"
        assert progress.tasks[1].description.startswith("8 a name that is longer")
        assert len(progress.tasks[1].description) <= 24 + len("8  running")
        assert "\x1b" not in progress.tasks[1].description


@pytest.mark.parametrize(
    ("total", "estimated", "shown"),
    [(9, None, "3/9"), (None, 8, "3/~8"), (None, None, "3/?"), (None, 2, "3/~3")],
)
def test_an_estimated_total_is_marked(total: int | None, estimated: int | None, shown: str) -> None:
    with frames_progress() as progress:
        one = played(7, frames_total=total, frames_estimated=estimated)
        Bars(progress).show([one])
        assert FramesColumn().render(progress.tasks[0]).plain == shown
        assert frames(one) == ("3" if shown == "3/?" else shown)
        ended = played(7, frames_total=total, frames_estimated=estimated, status=Status.COMPLETED)
        assert "~" not in frames(ended)
