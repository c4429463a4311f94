"""Values that a shell completes: by the protocol that Typer's scripts for shells speak."""

from __future__ import annotations

import time

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.cli.options import completion
from vidan.db.session import Database
from vidan.domain.schedule import Schedule
from vidan.domain.status import Status
from vidan.export.formats import FORMATS
from vidan.protocol import tasks
from vidan.services import schedules


def completed(shell: Shell, line: str, *, by: str = "bash") -> list[str]:
    """The words that the shell offers after this line."""
    words = line.split(" ")
    shell.environment["_VIDAN_COMPLETE"] = f"complete_{by}"
    if by == "bash":
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    shell.environment.update(asked)
    ended = shell()
    assert ended.err == ""
    return ended.out.split()


@pytest.fixture
def used(vidan: Shell, worker: PlayedWorker, database: Database) -> Shell:
    vidan("scenario", "create", "--no-check", *(f"/v/{n}.mp4" for n in range(12)))
    with database.begin() as connection:
        tasks.publish(connection, [tasks.TaskSpec("count", {}, needs_source=True)])
        given = [("count", Schedule("0 6 * * *", name="nightly"))]
        schedules.publish(connection, "app", given)
    return vidan


def test_what_the_database_knows_is_offered(used: Shell, worker: PlayedWorker) -> None:
    assert completed(used, "vidan scenario show ") == [str(n) for n in range(12, 0, -1)]
    assert completed(used, "vidan scenario stop 1") == ["12", "11", "10", "1"]
    assert completed(used, "vidan scenario list --task ") == ["detect", "count"]
    assert completed(used, "vidan scenario create --task c") == ["count"]
    assert completed(used, "vidan tasks show c") == ["count"]
    assert completed(used, "vidan workers show ") == ["cpu-0@test"]
    assert completed(used, f"vidan workers stop {str(worker.id)[:6]}") == [str(worker.id)]
    assert completed(used, "vidan scenario list --queue ") == ["default"]
    assert completed(used, "vidan schedules pause n") == ["nightly"]
    assert completed(used, "vidan predictions show 12") == ["12"]


def test_names_that_need_no_database(bare: Shell) -> None:
    assert completed(bare, "vidan scenario list --status ") == list(Status)
    assert completed(bare, "vidan events --status co") == ["completed"]
    assert completed(bare, "vidan scenario create --status ") == ["init_startup", "inactive"]
    assert completed(bare, "vidan predictions export --format ") == list(FORMATS)
    assert completed(bare, "vidan models show na") == ["nanodet-g"]
    assert completed(bare, "vidan run --model na") == ["nanodet-g"]
    assert completed(bare, "vidan scenario transition 1 acti") == ["active"]


@pytest.mark.parametrize("by", ["zsh", "fish"])
def test_other_shells_are_offered_the_same(used: Shell, by: str) -> None:
    assert "nightly" in "".join(completed(used, "vidan schedules show ", by=by))


def test_a_database_that_does_not_answer_is_no_error_and_no_wait(
    bare: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed(bare, "vidan scenario show ") == []
    bare.environment["DATABASE_URL"] = "postgresql://x@127.0.0.1:1/x"
    assert completed(bare, "vidan workers show ") == []
    bare.environment["DATABASE_URL"] = "no url"
    assert completed(bare, "vidan scenario list --task ") == ["detect"]
    monkeypatch.setattr(completion, "PATIENCE", 0.2)
    monkeypatch.setattr("vidan.config.load", lambda **_: time.sleep(5))
    began = time.monotonic()
    assert completed(bare, "vidan scenario show ") == []
    assert time.monotonic() - began < 3
