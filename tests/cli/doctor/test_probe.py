"""`vidan doctor --probe`, for health checks; and what the whole doctor does besides looking."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.support.kafka import HostedBroker
from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.cli.commands.doctor import finding, machine, stuck
from vidan.config import Settings
from vidan.db.session import Database
from vidan.orchestrator import Orchestrator
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario


@pytest.fixture
def listening(vidan: Shell, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An orchestrator, as far as others can tell."""
    monkeypatch.setattr(stuck, "ORCHESTRATOR_PATIENCE", timedelta(minutes=10))
    orchestrator = Orchestrator(Settings(home=vidan.folder, database_url=database_url))
    orchestrator.expire()
    yield
    orchestrator.close()


def create(database: Database, **new: Any) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/v/a.mp4", **new))


@pytest.mark.usefixtures("listening")
def test_a_probe_of_what_answers_is_silent(vidan: Shell, embedded_broker: HostedBroker) -> None:
    ended = vidan("doctor", "--probe")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    vidan.environment["KAFKA_BOOTSTRAP_SERVERS"] = embedded_broker.bootstrap_servers
    ended = vidan("doctor", "--probe", "--stuck")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.usefixtures("listening")
def test_a_probe_tells_by_its_code_what_does_not_answer(
    bare: Shell, vidan: Shell, empty_database_url: str
) -> None:
    nowhere = "postgresql://x:geheim@127.0.0.1:1/x"
    dead_broker = ("--bootstrap-servers", "127.0.0.1:1")
    for words in ((nowhere,), (nowhere, *dead_broker), (empty_database_url, *dead_broker)):
        ended = bare("doctor", "--probe", "--database-url", *words)
        assert (ended.code, ended.out) == (8, "")
        assert "geheim" not in ended.err
    ended = vidan("doctor", "--probe", "--json", *dead_broker)
    assert (ended.code, ended.out) == (9, "")
    assert ended.error()["exit_code"] == 9


def test_a_probe_without_any_database(bare: Shell) -> None:
    assert bare("doctor", "--probe").code == 8


def test_a_probe_misses_the_orchestrator_but_the_broker_first(vidan: Shell) -> None:
    ended = vidan("doctor", "--probe")
    assert (ended.code, ended.out) == (1, "")
    assert "vidan orchestrator" in ended.err
    assert vidan("doctor", "--probe", "--bootstrap-servers", "127.0.0.1:1").code == 9


@pytest.mark.usefixtures("listening")
def test_stuck_adds_what_waits_without_a_worker(
    vidan: Shell, worker: PlayedWorker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database)
    worker.claim()
    create(database)  # waits for the worker, which is busy
    create(database, queue="night")
    assert vidan("doctor", "--probe", "--stuck").code == 0  # not for long
    monkeypatch.setattr(finding, "PATIENCE", timedelta(0))
    ended = vidan("doctor", "--probe", "--stuck")
    assert (ended.code, ended.out) == (1, "")
    assert "scenario 3," in ended.err
    assert "'night'" in ended.err
    assert vidan("doctor", "--probe").code == 0


@pytest.mark.parametrize("words", [("--stuck",), ("--probe", "--ack"), ("--probe", "--devices")])
def test_options_that_do_not_go_together(vidan: Shell, words: tuple[str, ...]) -> None:
    assert vidan("doctor", *words).code == 2


def test_torch_is_asked_only_if_the_user_wants_it(
    vidan: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_ASK_TORCH", "print('9.9', 'GPU of the test', sep='\\n')")

    def devices(*words: str) -> dict[str, Any]:
        found = vidan("doctor", "--json", *words).json()
        (one,) = [one for one in found if one["check"] == "devices"]
        return dict(one)

    assert devices("--devices")["finding"] == "cpu, cuda:0 GPU of the test; torch 9.9"
    monkeypatch.setattr(machine, "_ASK_TORCH", "raise SystemExit('torch was loaded')")
    assert devices()["state"] == "ok"
    assert "--devices" in devices()["remedy"]
    assert devices("--devices")["state"] == "fail"


def test_a_terminal_is_told_what_is_looked_at(vidan: Shell) -> None:
    shown = in_terminal(vidan, "doctor")
    database, broker = shown.index("looking at the database …"), shown.index("at the broker …")
    assert database < broker < shown.index("looking at this machine …") < shown.index("STATE")
    assert "looking" not in vidan("doctor").err
