"""Kills processes and stops servers, and measures how soon work resumes.

The tests that hold the promised times and the benchmark that prints the figures share it. Where the
database stores a time, the measurement is by the database's clock.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tests.support.cluster import Cluster
from tests.support.consuming import partitions
from tests.support.durable_postgres import DurablePostgres
from tests.support.kafka import HostedBroker, RealKafka
from tests.support.processes import eventually
from vidan.broker.messages import SCENARIOS_TOPIC
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable
from vidan.processes.lifeline import Child
from vidan.services import steering

LIMIT = 60.0
"""Longest time, in seconds, that each step is waited for."""


def now(cluster: Cluster) -> datetime:
    """Return the database's time."""
    at: datetime = cluster.query("SELECT clock_timestamp() AS at")[0]["at"]
    return at


def reached(cluster: Cluster, scenario_id: int, status: Status, after: datetime) -> datetime:
    """Wait until a scenario has reached a status after `after`; returns the time of that."""
    sql = (
        "SELECT min(at) AS at FROM transitions"
        " WHERE scenario_id = :id AND to_status = :status AND at > :after"
    )

    def at() -> datetime | None:
        found: datetime | None = cluster.query(sql, id=scenario_id, status=status, after=after)[0][
            "at"
        ]
        return found

    assert eventually(lambda: at() is not None, LIMIT), (cluster.get(scenario_id), cluster.log())
    found = at()
    assert found is not None
    return found


def seconds_until(condition: Callable[[], bool], since: float) -> float:
    """Return the seconds from `since` (monotonic) until a condition holds."""

    def holds() -> bool:
        try:
            return condition()
        except DatabaseUnavailable:  # the server has not started yet
            return False

    assert eventually(holds, LIMIT)
    return time.monotonic() - since


def running(cluster: Cluster, **new: object) -> int:
    """Create a scenario that runs until it is stopped; returns once it is active."""
    scenario_id = cluster.create(task="sleep", params={"seconds": 600}, **new)
    assert eventually(lambda: cluster.get(scenario_id).status is Status.ACTIVE, LIMIT), (
        cluster.log()
    )
    return scenario_id


def end(cluster: Cluster, scenario_id: int) -> None:
    """Stop a scenario, and wait until it has ended."""
    with cluster.database.begin() as connection:
        steering.stop(connection, scenario_id)
    cluster.wait(scenario_id)


def idle_workers(cluster: Cluster) -> set[str]:
    """Return the names of the workers that have a lease and hold no scenario."""
    sql = (
        "SELECT name FROM workers w WHERE lease_until > now() AND state <> 'gone'"
        " AND NOT EXISTS (SELECT 1 FROM scenarios s WHERE s.worker_id = w.id)"
    )
    return {row["name"] for row in cluster.query(sql)}


def worker_killed_with_another_free(cluster: Cluster, names: set[str]) -> float:
    """Kill a worker that runs a scenario; returns the seconds until another claimed it."""
    assert eventually(lambda: idle_workers(cluster) == names, LIMIT), cluster.log()
    scenario_id = running(cluster)
    name = cluster.get(scenario_id).worker
    assert name is not None
    pid = cluster.worker_pid(name)
    killed = now(cluster)
    os.kill(pid, signal.SIGKILL)
    claimed = reached(cluster, scenario_id, Status.INIT_STARTUP_PROCESSING, killed)
    assert cluster.get(scenario_id).worker != name
    end(cluster, scenario_id)
    return (claimed - killed).total_seconds()


@dataclass(frozen=True, slots=True)
class Alone:
    """When work resumed after the only worker was killed, in seconds."""

    released: float
    """From the kill until the scenario was released."""
    claimed: float
    """From the registration of the next process to its claim."""
    in_all: float
    """From the kill to that claim."""


def worker_killed_alone(cluster: Cluster, name: str) -> Alone:
    """Kill the only worker while it runs a scenario."""
    assert eventually(lambda: idle_workers(cluster) == {name}, LIMIT), cluster.log()
    scenario_id = running(cluster)
    pid = cluster.worker_pid(name)
    killed = now(cluster)
    os.kill(pid, signal.SIGKILL)
    released = reached(cluster, scenario_id, Status.INIT_STARTUP, killed)
    claimed = reached(cluster, scenario_id, Status.INIT_STARTUP_PROCESSING, killed)
    registered = cluster.query("SELECT max(registered_at) AS at FROM workers")[0]["at"]
    end(cluster, scenario_id)
    return Alone(
        (released - killed).total_seconds(),
        (claimed - registered).total_seconds(),
        (claimed - killed).total_seconds(),
    )


@dataclass(frozen=True, slots=True)
class Host:
    """A supervisor and its worker, which stand for a machine that can fail."""

    supervisor: Child
    name: str

    def signal(self, cluster: Cluster, number: signal.Signals) -> None:
        """Send a signal to both, so that neither sees the other one end."""
        worker = cluster.worker_pid(self.name)
        os.kill(worker, signal.SIGSTOP)
        for pid in (self.supervisor.pid, worker):
            os.kill(pid, number)


def start_hosts(cluster: Cluster, *names: str, **options: Any) -> list[Host]:
    """Start several hosts at once, since each takes seconds; returns them in this order."""
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(cluster.supervisor, name, **options) for name in names]
        return [Host(one.result(), name) for one, name in zip(started, names, strict=True)]


def one_each(cluster: Cluster, hosts: Sequence[Host]) -> dict[str, int]:
    """Let each host run a scenario; returns the scenarios by the names of the hosts.

    There must be no other hosts.
    """
    running_ids = [running(cluster) for _ in hosts]
    held = {str(cluster.get(one).worker): one for one in running_ids}
    assert set(held) == {host.name for host in hosts}
    return held


def seconds_after_lease(cluster: Cluster, scenario_id: int, host: Host, gone: datetime) -> float:
    """Return the seconds from the end of a lost host's lease to the next claim by another."""
    claimed = reached(cluster, scenario_id, Status.INIT_STARTUP_PROCESSING, gone)
    sql = "SELECT max(lease_until) AS at FROM workers WHERE name = :n AND registered_at < :gone"
    lease_until = cluster.query(sql, n=host.name, gone=gone)[0]["at"]
    return float((claimed - lease_until).total_seconds())


def postgres_restarted(
    cluster: Cluster, postgres: DurablePostgres, how: str, away: float, running_id: int
) -> float:
    """Restart PostgreSQL while a worker with a free slot runs a scenario over a video.

    Returns the seconds from the restart until the run has stored more frames and a new scenario
    has been run.
    """
    before = cluster.get(running_id).frames_done
    back = postgres.restart(how, away)
    new: list[int] = []

    def goes_on() -> bool:
        if not new:
            new.append(cluster.create(task="add", params={"a": 1}))
        ended = cluster.get(new[0]).status is Status.COMPLETED
        return ended and cluster.get(running_id).frames_done > before

    return seconds_until(goes_on, back)


@dataclass(frozen=True, slots=True)
class BrokerBack:
    """How soon work was done around a restart of the broker, in seconds."""

    swept: float
    """Until a scenario was done that was created while there was no broker."""
    announced: float
    """From the start of the broker until an announcement arrived."""
    worked: float
    """From the start of the broker until a new scenario was done."""


def broker_restarted(cluster: Cluster, server: RealKafka | HostedBroker, away: float) -> BrokerBack:
    """Stop the broker and start it `away` seconds later; all processes find it by themselves."""
    server.stop()
    gone = time.monotonic()
    meanwhile = cluster.create(task="add", params={"a": 1})
    swept = seconds_until(lambda: cluster.get(meanwhile).status is Status.COMPLETED, gone)
    nobodys = [cluster.create(queue="nobody")]  # its announcement fails until the broker runs
    time.sleep(max(0.0, away - (time.monotonic() - gone)))
    server.start()
    back = time.monotonic()
    nobodys.append(cluster.create(queue="nobody"))
    new = cluster.create(task="add", params={"a": 2})
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(seconds_until_announced, server.bootstrap_servers, nobodys, back)
        worked = seconds_until(lambda: cluster.get(new).status is Status.COMPLETED, back)
        return BrokerBack(swept, reading.result(), worked)


def seconds_until_announced(servers: str, ids: Sequence[int], since: float) -> float:
    """Read the topic until all have been announced.

    Returns the seconds from `since` (monotonic).
    """
    reader = Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex})
    wanted = {str(one).encode() for one in ids}
    try:
        found = partitions(reader, SCENARIOS_TOPIC)  # the topic may not exist yet
        reader.assign([TopicPartition(SCENARIOS_TOPIC, one, 0) for one in found])
        while wanted and time.monotonic() - since < LIMIT:
            for message in reader.consume(100, 0.05):
                if message.error() is None:
                    wanted.discard(message.key() or b"")
        assert not wanted, f"never announced: {wanted}"
        return time.monotonic() - since
    finally:
        reader.close()
