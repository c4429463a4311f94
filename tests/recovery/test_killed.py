"""How soon work resumes after workers or whole hosts were lost."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support import recovery
from tests.support.cluster import Cluster
from vidan.domain.status import Status

pytestmark = pytest.mark.slow

BUSY = 5.0
"""Longest time, in seconds, on a busy machine; waiting for the end of a lease would take 10."""


def test_another_free_worker_takes_over_within_a_second(embedded_cluster: Cluster) -> None:
    embedded_cluster.orchestrator()
    recovery.start_hosts(embedded_cluster, "one", "two")

    taken = [
        recovery.worker_killed_with_another_free(embedded_cluster, {"one", "two"}) for _ in range(3)
    ]

    assert min(taken) < 1.0, taken
    assert max(taken) < BUSY, taken


def test_alone_the_next_process_of_its_supervisor_takes_over_at_once(
    embedded_cluster: Cluster,
) -> None:
    """Its supervisor gives up the lease, so that no process waits for its end."""
    recovery.start_hosts(embedded_cluster, "one")

    taken = [recovery.worker_killed_alone(embedded_cluster, "one") for _ in range(2)]

    assert min(one.released for one in taken) < 0.5, taken
    assert max(one.released for one in taken) < BUSY, taken
    assert max(one.claimed for one in taken) < BUSY, taken


@pytest.mark.parametrize("orchestrators", ["one", "killed"])
def test_a_lost_host_delays_its_scenarios_by_its_lease_and_a_second(
    embedded_cluster: Cluster, orchestrators: str
) -> None:
    """One host is switched off, one is frozen; in one case the orchestrator restarts as well."""
    cluster = embedded_cluster
    orchestrator = cluster.orchestrator()
    off, frozen = recovery.start_hosts(cluster, "off", "frozen")
    held = recovery.one_each(cluster, [off, frozen])
    recovery.start_hosts(cluster, "third", "fourth")
    gone = recovery.now(cluster)
    if orchestrators == "killed":
        orchestrator.kill()
    off.signal(cluster, signal.SIGKILL)
    frozen.signal(cluster, signal.SIGSTOP)
    if orchestrators == "killed":
        time.sleep(1)
        cluster.orchestrator()

    late = {
        host.name: recovery.seconds_after_lease(cluster, held[host.name], host, gone)
        for host in (off, frozen)
    }

    assert max(late.values()) < BUSY, late
    assert min(late.values()) > 0, late  # never before the lease has ended
    for name, scenario_id in held.items():
        found = cluster.get(scenario_id)
        assert found.status in (Status.INIT_STARTUP_PROCESSING, Status.ACTIVE), name
        assert found.crashes == (1 if orchestrators == "one" else 0), name
