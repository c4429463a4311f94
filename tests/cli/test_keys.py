"""`vidan scenario create --key`: the same again, other work, and what has failed."""

from __future__ import annotations

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.shell import Ended, Shell
from vidan.db.session import Database
from vidan.domain.status import Status


def create(vidan: Shell, *words: object, source: str = "/videos/a.mp4") -> Ended:
    return vidan("scenario", "create", "--no-check", source, "--key", "k", *words)


def test_the_same_command_returns_the_scenario_again(vidan: Shell) -> None:
    first = create(vidan, "--param", "every=2")
    again = create(vidan, "--param", "every=2", "--param", "min_score=0.35", "--queue", "slow")
    assert (again.code, again.out) == (0, first.out)
    assert "has this key already and is init_startup" in again.err
    assert len(vidan("scenario", "list", "--json").json()) == 1


OTHER = {
    "another source": (["--param", "every=2"], "/videos/b.mp4", "differs in source"),
    "another param": (["--param", "every=3"], "/videos/a.mp4", "differs in param every"),
    "a param less": ([], "/videos/a.mp4", "differs in param every"),
}


@pytest.mark.parametrize("which", OTHER)
def test_other_work_under_the_key_is_refused(vidan: Shell, which: str) -> None:
    words, source, said = OTHER[which]
    assert create(vidan, "--param", "every=2").code == 0
    refused = create(vidan, *words, source=source)
    assert (refused.code, refused.out) == (10, "")
    assert said in refused.err
    assert "--key-reuse" in refused.err
    assert create(vidan, *words, "--json", source=source).error()["exit_code"] == 10
    reused = create(vidan, *words, "--key-reuse", source=source)
    assert (reused.code, reused.out) == (0, "1\n")


@pytest.mark.parametrize("option", ["--key-reuse", "--retry-failed"])
def test_what_is_about_a_key_wants_one(vidan: Shell, option: str) -> None:
    ended = vidan("scenario", "create", "--no-check", "/videos/a.mp4", option)
    assert ended.code == 2
    assert "--key" in ended.err
    held = create(vidan, "--retry-failed", "--status", "inactive")
    assert held.code == 10


def test_what_has_failed_is_named_and_retried(vidan: Shell, worker: PlayedWorker) -> None:
    create(vidan)
    worker.claim()
    worker.end(Status.FAILED, "broken")
    again = create(vidan)
    assert (again.code, again.out) == (0, "1\n")
    assert "is failed; --retry-failed resumes it" in again.err
    assert create(vidan, "--wait").code == 5
    assert "it resumes" in create(vidan, "--retry-failed").err
    assert worker.claim() == 1


@pytest.mark.parametrize(("end", "code"), [(Status.COMPLETED, 0), (Status.FAILED, 5)])
def test_a_job_that_waits_for_the_retried_run_ends_as_that_run_ends(
    vidan: Shell, worker: PlayedWorker, database: Database, end: Status, code: int
) -> None:
    words = ("scenario", "create", "--no-check", "/videos/a.mp4", "--key", "k", "--retry-failed")
    assert vidan(*words).code == 0
    worker.claim()
    worker.end(Status.FAILED, "broken")

    job = vidan.start(*words, "--wait", "--timeout", "60s")
    eventually(lambda: vidan("scenario", "show", "1", "--json").json()["status"] == "init_startup")
    worker.claim()
    worker.end(end, None if end is Status.COMPLETED else "broken again")
    assert job.wait(30) == code
