"""After a restart of the broker or of PostgreSQL, work resumes by itself within five seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.support import recovery
from tests.support.cluster import SAMPLE_FRAMES, Cluster
from tests.support.durable_postgres import DurablePostgres
from tests.support.kafka import HostedBroker, RealKafka
from tests.support.played_worker import PlayedWorker
from tests.support.ports import free_port
from tests.support.processes import eventually
from vidan import backoff
from vidan.cli import following
from vidan.cli.terminal.output import Output
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable

pytestmark = pytest.mark.slow

PROMISE = 5.0
"""Longest time, in seconds, from the restart until work resumes."""
BUSY = 7.0
"""Longest delay, in seconds, that a machine may add which is busy with other tests."""

START_LIMIT = 60.0
"""Longest time, in seconds, that a command may take to start on such a machine."""

LONG = os.environ.get("VIDAN_LONG_TESTS")
OUTAGES = [("fast", 3.0), ("immediate", 0.0), ("immediate", 17.0)]
MORE_OUTAGES = [("fast", 0.0), ("fast", 10.0), ("fast", 20.0), ("immediate", 10.0)]


def assert_undisturbed(cluster: Cluster, scenario_id: int) -> None:
    """Check that a run over the whole sample completed, stored each frame once, uncharged."""
    found = cluster.wait(scenario_id)
    assert found.status is Status.COMPLETED, (found.error, cluster.log())
    assert (found.attempts, found.crashes) == (0, 0)
    assert found.result == {"frames": SAMPLE_FRAMES}
    assert [one.frame for one in cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))


# --- PostgreSQL


@pytest.mark.parametrize(
    ("how", "away"),
    [
        *OUTAGES,
        *(
            pytest.param(*one, marks=pytest.mark.skipif(not LONG, reason="VIDAN_LONG_TESTS=1"))
            for one in MORE_OUTAGES
        ),
    ],
)
def test_postgres_comes_back(
    embedded_cluster: Cluster, postgres: DurablePostgres, how: str, away: float
) -> None:
    """17 s are longer than a lease: runs stop by their own clock, and resume at the checkpoint."""
    cluster = embedded_cluster
    cluster.orchestrator()
    supervisor = cluster.supervisor(slots=2)
    scenario_id = cluster.create(task="count", params={"model": "trial:slow"})
    cluster.wait_for_frames(scenario_id, 10)

    seconds = recovery.postgres_restarted(cluster, postgres, how, away, scenario_id)

    assert seconds < PROMISE + BUSY, cluster.log()
    assert_undisturbed(cluster, scenario_id)
    assert supervisor.poll() is None
    pids = {row["pid"] for row in cluster.query("SELECT pid FROM workers")}
    assert len(pids) == 1  # no process had to be started again


def test_postgres_freezes_and_comes_back(
    embedded_cluster: Cluster, postgres: DurablePostgres
) -> None:
    """All connections stay open, and none is answered for longer than a lease."""
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(slots=2)
    scenario_id = cluster.create(task="count", params={"model": "trial:crawling"}, queue="later")
    waiting = vidan(cluster, "scenario", "wait", scenario_id)
    looks: set[object] = set()

    def looks_on() -> bool:
        looks.update(
            row["state_change"]
            for row in cluster.query(
                "SELECT state_change FROM pg_stat_activity WHERE application_name = 'vidan'"
                " AND pid <> pg_backend_pid()"
            )
        )
        return len(looks) >= 4

    assert eventually(looks_on, START_LIMIT)
    let_run(cluster)
    cluster.wait_for_frames(scenario_id, 4)
    before = cluster.get(scenario_id).frames_done

    with postgres.frozen():
        time.sleep(17)
    back = time.monotonic()

    goes_on = recovery.seconds_until(lambda: cluster.get(scenario_id).frames_done > before, back)
    assert goes_on < PROMISE + BUSY, cluster.log()
    assert_undisturbed(cluster, scenario_id)
    out, told = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (0, f"{scenario_id}\tcompleted\n"), told
    assert told.count("trying again") == 1, told
    assert len({row["pid"] for row in cluster.query("SELECT pid FROM workers")}) == 1


def let_run(cluster: Cluster) -> None:
    """Let workers claim the scenarios that were held back until all commands watched them."""
    cluster.query("UPDATE scenarios SET queue = 'default' WHERE queue = 'later'")


def vidan(cluster: Cluster, *words: object) -> subprocess.Popen[str]:
    """Start a command of vidan."""
    return subprocess.Popen(
        [sys.executable, "-m", "vidan", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cluster.environment,
    )


def test_commands_that_wait_ride_out_a_restart(
    embedded_cluster: Cluster, postgres: DurablePostgres, tmp_path: Path
) -> None:
    """A script that follows a scenario wants its end, not the state of the database."""
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(slots=2)
    scenario_id = cluster.create(task="count", params={"model": "trial:crawling"}, queue="later")
    port = free_port()
    api = vidan(cluster, "api", "--port", port)
    mark = tmp_path / "back"
    commands = {
        "watch": vidan(cluster, "predictions", "watch", scenario_id, "--json"),
        "wait": vidan(cluster, "scenario", "wait", scenario_id, "--json"),
        "create": vidan(
            cluster,
            *"scenario create --task attend --queue later --wait --param".split(),
            f"mark={mark}",
        ),
    }
    url = f"http://127.0.0.1:{port}/scenario/{scenario_id}/"
    try:
        assert eventually(lambda: status_of(url) == 200, START_LIMIT)
        assert eventually(lambda: len(cluster.query("SELECT 1 FROM scenarios")) == 2, START_LIMIT)
        asking = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'vidan'"
        assert eventually(lambda: len(cluster.query(asking)) == len(commands) + 1, START_LIMIT)
        time.sleep(2)  # the commands are connected, and need time for their first query
        let_run(cluster)
        cluster.wait_for_frames(scenario_id, 4)
        postgres.go("fast")
        assert eventually(lambda: status_of(url) == 503, 10)
        time.sleep(2)
        postgres.start()
        back = time.monotonic()
        assert recovery.seconds_until(lambda: status_of(url) == 200, back) < PROMISE
        mark.touch()

        ended = {name: one.communicate(timeout=60) for name, one in commands.items()}
    finally:
        api.terminate()
        api.communicate(timeout=20)
    assert {name: one.returncode for name, one in commands.items()} == dict.fromkeys(commands, 0)
    for name, (_, told) in ended.items():
        assert told.count("trying again") == 1, (name, told)
        assert "Traceback" not in told, (name, told)
    watched = [json.loads(line)["frame"] for line in ended["watch"][0].splitlines()]
    assert watched == list(range(SAMPLE_FRAMES))
    assert json.loads(ended["wait"][0])["status"] == "completed"


def status_of(url: str) -> int:
    """Return the status with which an HTTP server answers, or 0 while no server runs."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_wait_does_not_wait_for_ever(
    embedded_cluster: Cluster, postgres: DurablePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long outage ends the command. The test shortens the half minute that it would wait."""
    monkeypatch.setattr(backoff, "OUTAGE_SECONDS", 1.0)
    scenario_id = embedded_cluster.create()
    database = Database(embedded_cluster.database.url, guarded=True)
    going = threading.Timer(0.5, postgres.go)
    going.start()
    try:
        with pytest.raises(DatabaseUnavailable):
            following.wait_for(database, Output(), [scenario_id], None)
    finally:
        going.join()
        postgres.start()


def test_a_command_that_is_called_during_an_outage_says_so(
    embedded_cluster: Cluster, postgres: DurablePostgres
) -> None:
    postgres.go("immediate")
    try:
        called = [
            vidan(embedded_cluster, *words.split())
            for words in ("scenario list", "predictions watch 1", "scenario wait 1", "orchestrator")
        ]
        for one in called:
            out, told = one.communicate(timeout=30)
            assert (one.returncode, out) == (8, "")
            assert [line.partition(":")[0] for line in told.splitlines()] == ["Error", "Hint"], told
    finally:
        postgres.start()


# --- no connections


@pytest.fixture
def crowd(postgres: DurablePostgres) -> Iterator[list[psycopg.Connection[object]]]:
    """A list for connections, which are closed at the end."""
    opened: list[psycopg.Connection[object]] = []
    yield opened
    for one in opened:
        one.close()


def test_a_server_without_free_connections_ends_no_run(
    embedded_cluster: Cluster,
    postgres: DurablePostgres,
    crowd: list[psycopg.Connection[object]],
) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(slots=2)
    scenario_id = cluster.create(task="count", params={"model": "trial:crawling"})
    cluster.wait_for_frames(scenario_id, 4)
    before = cluster.get(scenario_id).frames_done

    with pytest.raises(psycopg.OperationalError, match=r"too many|remaining"):
        crowd.extend(psycopg.connect(postgres.url) for _ in range(1000))
    beside = cluster.create(task="add", params={"a": 1})  # over an open connection
    full = time.monotonic()
    while time.monotonic() - full < 7:  # longer than the time between two heartbeats
        with suppress(psycopg.OperationalError):
            crowd.append(psycopg.connect(postgres.url))  # take each connection that a worker closes
        time.sleep(0.1)
    assert eventually(lambda: cluster.get(beside).status is Status.COMPLETED), cluster.log()
    assert cluster.get(scenario_id).frames_done > before, cluster.log()
    while crowd:
        crowd.pop().close()

    assert_undisturbed(cluster, scenario_id)
    assert len(cluster.query("SELECT 1 FROM workers")) == 1  # no lease was lost


# --- the broker


def test_a_broker_comes_back(cluster: Cluster, broker_server: RealKafka | HostedBroker) -> None:
    """Kafka keeps its address and topics; the embedded broker gets another port and no topics."""
    server = broker_server
    cluster.orchestrator()
    cluster.supervisor(slots=2)
    assert cluster.wait(cluster.create(task="add", params={"a": 0})).result == 1
    dead = PlayedWorker(cluster.database, queues=("played",))
    held = cluster.create(queue="played")
    dead.claim()
    scenario_id = cluster.create(task="count", params={"model": "trial:slow"})
    cluster.wait_for_frames(scenario_id, 4)
    dead.let_lease_end(-2.0)  # in two seconds, while there is no broker

    found = recovery.broker_restarted(cluster, server, 10 if isinstance(server, RealKafka) else 2)

    assert found.swept < PROMISE + BUSY
    assert found.announced < PROMISE + BUSY, (found, cluster.log())
    assert found.worked < PROMISE + BUSY
    assert_undisturbed(cluster, scenario_id)
    late = cluster.query(
        "SELECT extract(epoch FROM t.at - w.lease_until) AS s FROM transitions t, workers w"
        " WHERE t.scenario_id = :id AND t.from_status = 'active' AND w.id = :worker",
        id=held,
        worker=dead.id,
    )
    assert 0 < late[0]["s"] < 1.0 + BUSY
