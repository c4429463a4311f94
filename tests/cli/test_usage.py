"""What a wrong call gets: one clear line, how to mend it, exit code 2; as JSON with --json."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.shell import Ended, Shell

WRONG = {
    "no command": ([], "missing command"),
    "no such command": (["scenaro", "list"], "did you mean 'scenario'"),
    "no such subcommand": (["scenario", "lst"], "lst"),
    "no such option": (["scenario", "list", "--limt", "3"], "--limit"),
    "negative limit": (["scenario", "list", "--limit", "-3"], "-3 is too small"),
    "negative id": (["scenario", "show", "-5"], "-5 is negative"),
    "id 0": (["scenario", "show", "0"], "too small"),
    "id too large": (["scenario", "show", str(2**63)], "too large"),
    "id no number": (["scenario", "show", "abc"], "not a whole number"),
    "id with an underscore": (["scenario", "show", "1_0"], "not a whole number"),
    "no id": (["scenario", "show"], "missing argument"),
    "scale without a number": (
        ["workers", "scale", "w"],
        "vidan workers scale [OPTIONS] WORKER... N",
    ),
    "slots that no worker has": (["worker", "--slots", "65"], "the largest is 64"),
    "neither ids nor filters": (["scenario", "stop"], "no scenario is named"),
    "ids and filters": (["scenario", "stop", "1", "--label", "a=b"], "exclude"),
    "no such status": (["scenario", "list", "--status", "done"], "init_startup"),
    "label without value": (["scenario", "list", "--label", "north"], "name=value"),
    "label twice": (["scenario", "list", "--label", "a=1", "--label", "a=2"], "twice"),
    "no duration": (["scenario", "wait", "1", "--timeout", "soon"], "30, 30s, 10m or 2h"),
    "negative duration": (["scenario", "wait", "1", "--timeout", "-1"], "not a duration"),
    "score above 1": (["predictions", "show", "1", "--min-score", "1.5"], "too large"),
    "score nan": (["predictions", "show", "1", "--min-score", "nan"], "not a number"),
    "to before from": (["predictions", "show", "1", "--from", "9", "--to", "3"], "before"),
    "no such format": (["predictions", "export", "1", "--format", "coco"], "jsonl, csv"),
    "key for many": (["scenario", "create", "a", "b", "--key", "k"], "--key"),
    "timeout without wait": (["scenario", "create", "a", "--timeout", "3"], "--wait"),
    "created as completed": (["scenario", "create", "a", "--status", "completed"], "completed"),
    "dash as source": (["scenario", "create", "-"], "--from -"),
    "transition to nonsense": (["scenario", "transition", "1", "paused"], "paused"),
    "run without source": (["run"], "--sample"),
    "run with two": (["run", "a.mp4", "--sample"], "--sample"),
    "both devices": (["worker", "--cpus", "1", "--gpus", "0"], "exclude"),
    "gpus no numbers": (["worker", "--gpus", "first"], "first"),
    "no cpus": (["worker", "--cpus", "0"], "too small"),
    "empty queue": (["worker", "--cpus", "1", "--queues", "a,,b"], "--queues"),
    "port": (["api", "--port", "70000"], "too large"),
    "no partitions": (["topics", "create", "--partitions", "0"], "too small"),
    "downgrade option": (["db", "downgrade", "--sq"], "--sq"),
    "drain nobody": (["workers", "drain"], "no worker is named"),
    "drain one and all": (["workers", "drain", "w", "--all"], "exclude"),
    "stop timeout without wait": (["workers", "stop", "w", "--timeout", "3"], "--wait"),
    "no such kind": (["dead", "list", "--kind", "letter"], "message and scenario"),
    "replay nothing": (["dead", "replay"], "no dead letter is named"),
    "replay one and all": (["dead", "replay", "1", "--all"], "exclude"),
    "replay one of a topic": (["dead", "replay", "1", "--topic", "t"], "exclude"),
    "purge before nonsense": (["dead", "purge", "--all", "--before", "soon"], "2026-11-01"),
    "purge before the calendar": (["dead", "purge", "--all", "--before", "9999999d"], "100 years"),
    "prune before the calendar": (["db", "prune", "--before", "9999999d"], "100 years"),
    "events since before it": (["events", "--since", "9999999d"], "100 years"),
    "purge one by age": (["dead", "purge", "1", "--before", "3d"], "exclude"),
    "no app": (["worker", "--cpus", "1", "--app", "shop"], "module:app"),
    "no frames a child": (["worker", "--max-frames-per-child", "0"], "too small"),
    "bad url": (["scenario", "list", "--database-url", "mysql://x/y"], "postgresql://"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_line_and_a_hint(bare: Shell, case: str) -> None:
    words, said = WRONG[case]
    ended = bare(*words)
    assert (ended.code, ended.out) == (2, "")
    error, hint = ended.err.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: ")
    assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("case", ["no such option", "negative id", "no command", "label twice"])
def test_wrong_usage_is_json_with_json(bare: Shell, case: str) -> None:
    words, said = WRONG[case]
    ended = bare("--json", *words)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    error = ended.error()
    assert said in error["error"] + error["hint"]


def test_an_app_that_is_not_there_is_told_before_anything_is_started(bare: Shell) -> None:
    for command in ("worker", "up"):
        ended = bare(command, "--cpus", 1, "--app", "nowhere.tasks:app", "--json")
        assert (ended.code, ended.out) == (10, "")
        assert ended.error()["error"] == "--app nowhere.tasks:app: there is no module nowhere"
        assert "in the folder of nowhere" in ended.error()["hint"]


def test_no_database_names_what_gives_one(bare: Shell) -> None:
    ended = bare("scenario", "list", "--json")
    assert ended.code == 8
    assert "vidan up" in ended.error()["hint"]
    assert "DATABASE_URL" in ended.error()["hint"]


@pytest.mark.processes
def test_an_unreachable_database_is_8_and_hides_the_password(bare: Shell) -> None:
    url = "postgresql://user:geheim@127.0.0.1:1/vidan"
    ended = bare.run("scenario", "list", "--database-url", url)
    assert (ended.code, ended.out) == (8, "")
    assert "geheim" not in ended.err
    assert "Traceback" not in ended.err


def test_debug_shows_the_traceback_before_or_after_the_name(bare: Shell) -> None:
    for words in (["--debug", "models", "show", "x"], ["models", "show", "x", "--debug"]):
        ended = bare(*words)
        assert ended.code == 3
        assert "Traceback" in ended.err


def test_what_comes_after_two_dashes_is_no_option(bare: Shell) -> None:
    ended = bare("scenario", "create", "--", "-clip.mp4")
    assert ended.code == 10
    assert "-clip.mp4" in ended.err
    ended = bare("models", "show", "--", "--json")
    assert ended.code == 3
    assert ended.err.startswith("Error: no such model: --json")


@pytest.mark.processes
def test_a_closed_pipe_ends_quietly(bare: Shell) -> None:
    process = bare.start("models", "list", "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_outcome(vidan: Shell, closed: str) -> None:
    listed = closing(vidan, closed, "scenario", "list")
    assert (listed.code, listed.out, listed.err) == (0, "", "")
    missing = closing(vidan, closed, "scenario", "show", 7, "--json")
    assert (missing.code, missing.out) == (3, "")
    if "2>&-" not in closed:
        assert missing.error()["error"] == "no scenario 7"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_a_command_starts_has_no_closed_streams(bare: Shell, closed: str) -> None:
    """Else a worker's log would be written to what gets the descriptor next."""
    child = "import os; [os.fstat(fd) for fd in range(3)]"
    code = (
        "import subprocess, sys; from vidan.cli import main; main._open_what_is_closed();"
        f" sys.exit(subprocess.call([sys.executable, '-c', '{child}']))"
    )
    started = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code]
    assert subprocess.run(started, env=bare.environment, timeout=60).returncode == 0


def test_a_closed_stdin_is_an_empty_one(vidan: Shell) -> None:
    ended = closing(vidan, "<&-", "scenario", "create", "--from", "-")
    assert (ended.code, ended.out) == (10, "")
    assert "no sources in stdin" in ended.err
    assert "add --yes" in closing(vidan, "<&-", "db", "prune", "--before", "30d").err


def closing(shell: Shell, closed: str, *words: object) -> Ended:
    """Run the command with some of its streams closed by a shell."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *shell.command(*words)],
        capture_output=True,
        text=True,
        env=shell.environment,
        cwd=shell.folder,
        timeout=180,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
