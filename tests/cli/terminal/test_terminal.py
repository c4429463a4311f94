"""What a person at a terminal sees: tables, which database it is, no unwanted colours."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from urllib.parse import quote, urlsplit

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.detection import catalogue
from vidan.domain.status import Status


def in_terminal(shell: Shell, *words: object, **variables: str) -> str:
    """What the command writes when stdout and stderr are a terminal of 120 columns."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        shell.command(*words),
        stdin=subprocess.DEVNULL,
        stdout=there,
        stderr=there,
        env={**shell.environment, "COLUMNS": "120", "TERM": "xterm", **variables},
        cwd=shell.folder,
    )
    os.close(there)
    written = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(here)
    process.wait(20)
    return written.decode().replace("\r\n", "\n")


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
    "scenario list": "ID STATUS FRAMES TASK WORKER SOURCE NAME CREATED",
    "scenario history 1": "AT FROM TO ACTOR REASON",
    "workers list": "NAME STATE DEVICE SLOTS SCENARIOS FPS QUEUES SEEN",
    "tasks list": "NAME SOURCE PARAMS SUMMARY CONCURRENCY RATE WORKERS",
    "models list": "NAME LABELS SIZE LICENCE SUMMARY",
    "dead list": "ID KIND ORIGIN AT ERROR",
}
NEVER_LEFT_OUT = {
    "scenario list": ("failed", "/v/street.mp4"),
    "scenario history 1": ("init_startup_processing", "claimed", "REASON", "+00:00"),
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
    for text in NEVER_LEFT_OUT[command]:
        assert text in table
    if command in ("scenario history 1", "dead list"):
        assert words >= set("the picture of frame 17 is damaged, and so are".split())


def test_a_very_narrow_terminal_gets_a_line_a_value(vidan: Shell) -> None:
    seen = in_columns(60, vidan, "models", "list")
    for model in catalogue.models():
        assert f"NAME     {model.name} " in seen
    assert "too narrow" not in seen
