"""A client that is stopped inside a transaction does not block others for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.support import recovery
from tests.support.cluster import SAMPLE_FRAMES, Cluster
from tests.support.processes import eventually
from vidan.domain.status import Status
from vidan.services import scenarios, steering

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GONE = 3
"""The exit code of a client whose transaction was ended by the server."""

LEASE = "UPDATE workers SET lease_until ="


@contextmanager
def stopped(kind: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """Start a client and wait until it has stopped itself; it is killed at the end."""
    client = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stopped_client", kind, url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        stat = Path(f"/proc/{client.pid}/stat")
        assert eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 20)
        yield client
    finally:
        client.kill()
        client.communicate()


def quickly(cluster: Cluster, work: Callable[[Connection], object]) -> None:
    """Do what a user asks for, which must not wait for the stopped client."""
    with cluster.database.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '8s'"))
        work(connection)


def test_a_worker_stopped_inside_a_copy_blocks_no_other_process(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    mine = cluster.create()
    with stopped("worker", cluster.database.url) as client:
        assert client.stdout is not None
        assert int(client.stdout.readline()) == mine
        cluster.query(f"{LEASE} now() + interval '1 h' WHERE name = 'stopped'")
        recovery.start_hosts(cluster, "other")
        beside = cluster.create(task="count")
        done = cluster.wait(beside)  # other workers claim and commit meanwhile
        assert (done.status, done.frames_done) == (Status.COMPLETED, SAMPLE_FRAMES)
        quickly(cluster, lambda c: steering.start(c, beside, from_beginning=True))
        quickly(cluster, lambda c: steering.stop(c, beside))
        cluster.wait(beside)
        quickly(cluster, lambda c: steering.delete(c, beside))
        quickly(cluster, scenarios.find)
        held = cluster.get(mine)
        assert (held.status, held.worker) == (Status.ACTIVE, "stopped")

        stopping = threading.Thread(target=lambda: stop(cluster, mine))
        stopping.start()  # the stop waits for the locked row
        time.sleep(0.5)
        assert stopping.is_alive()
        cluster.query(f"{LEASE} now() WHERE name = 'stopped'")
        stopping.join(20)
        assert not stopping.is_alive()
        assert cluster.wait(mine).status is Status.INACTIVE

        os.kill(client.pid, signal.SIGCONT)
        assert client.wait(20) == GONE
    assert cluster.frames(mine) == []


def stop(cluster: Cluster, scenario_id: int) -> None:
    with cluster.database.begin() as connection:
        steering.stop(connection, scenario_id)


def test_the_scenario_of_a_stopped_worker_is_claimed_by_another(embedded_cluster: Cluster) -> None:
    """The row is locked by a session that is being ended: another worker gets it at once."""
    cluster = embedded_cluster
    cluster.orchestrator()
    mine = cluster.create()
    with stopped("worker", cluster.database.url):
        cluster.query(f"{LEASE} now() + interval '1 h' WHERE name = 'stopped'")
        recovery.start_hosts(cluster, "other")
        cluster.query(f"{LEASE} now() + interval '1 s' WHERE name = 'stopped'")
        lease_until = cluster.query("SELECT lease_until FROM workers WHERE name = 'stopped'")
        claimed = recovery.reached(
            cluster, mine, Status.INIT_STARTUP_PROCESSING, lease_until[0]["lease_until"]
        )
        late = (claimed - lease_until[0]["lease_until"]).total_seconds()
        assert 0 < late < 10  # its session could stay open for a minute
        assert cluster.get(mine).worker == "other"


def test_the_announcements_of_a_stopped_orchestrator_are_made_by_another(
    embedded_cluster: Cluster,
) -> None:
    cluster = embedded_cluster
    created = [cluster.create(queue="nobody") for _ in range(3)]
    with stopped("orchestrator", cluster.database.url) as client:
        assert client.stdout is not None
        assert int(client.stdout.readline()) == 3
        began = time.monotonic()
        cluster.orchestrator()
        recovery.start_hosts(cluster, "w")
        fresh = cluster.create(task="add", params={"a": 41})
        assert cluster.wait(fresh, 30).result == 42  # no process waits for the locked rows
        due = "SELECT count(*) AS n FROM scenarios WHERE announce_at IS NOT NULL"
        assert eventually(lambda: cluster.query(due) == [{"n": 0}])
        assert time.monotonic() - began < 50  # its session could stay open for a minute
        servers = str(cluster.settings.bootstrap_servers())
        recovery.seconds_until_announced(servers, created, began)
        os.kill(client.pid, signal.SIGCONT)
        assert client.wait(20) == GONE


def test_a_stopped_supervisor_stops_no_worker(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    (host,) = recovery.start_hosts(cluster, "w")
    os.kill(host.supervisor.pid, signal.SIGSTOP)
    scenario_id = cluster.create(task="count")
    assert cluster.wait(scenario_id).result == {"frames": SAMPLE_FRAMES}
    os.kill(host.supervisor.pid, signal.SIGCONT)
