"""Orchestrators and supervisors under an init system, which restarts those that end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.cluster import APPS
from tests.support.processes import eventually, is_gone
from vidan.domain.worker import WorkerOptions
from vidan.processes import lifeline
from vidan.processes.lifeline import Child

APP = "chaos:app"
MARKS = "CHAOS_MARKS"
POSTS = (
    WorkerOptions("one", app=APP, threads=1),
    WorkerOptions("many", app=APP, threads=1, slots=3),
    WorkerOptions("two", app=APP, threads=1),
)
ORCHESTRATORS = 2
RESTART_SECONDS = 0.3
"""Seconds after which the init system restarts a service that has ended."""


@dataclass(frozen=True, slots=True)
class Unasked:
    """An end of a service that the chaos run did not cause."""

    at: float
    name: str
    code: int


@dataclass(slots=True)
class Service:
    """A process that the fleet keeps running."""

    name: str
    module: str
    arguments: list[str]
    child: Child | None = None
    expected: bool = False  # the chaos run is ending it
    not_before: float = 0.0
    ended: list[Unasked] = field(default_factory=list)


class Fleet:
    """Starts the services, and restarts each that has ended."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = dict(environment)
        self._logs = logs
        self._lock = threading.RLock()
        self._stopped: dict[int, str] = {}  # workers under SIGSTOP, pid → name
        self._closed = False
        self.services = [
            Service(f"orchestrator-{number}", "vidan.orchestrator", [])
            for number in range(ORCHESTRATORS)
        ] + [
            Service(
                f"supervisor-{post.name}",
                "vidan.supervisor",
                ["--posts", json.dumps([json.loads(post.to_json())])],
            )
            for post in POSTS
        ]

    def tend(self) -> None:
        """Start each service that does not run."""
        with self._lock:
            for service in self.services:
                child = service.child
                if child is not None and child.poll() is not None:
                    if not service.expected:
                        service.ended.append(Unasked(time.time(), service.name, child.wait()))
                    child.close()
                    service.child, service.expected = None, False
                    service.not_before = time.monotonic() + RESTART_SECONDS
                elif child is None and time.monotonic() >= service.not_before and not self._closed:
                    self._start(service)

    def signal_service(self, prefix: str, victim: int, number: int) -> str:
        """Send a signal that ends a service with this prefix; returns the name of the service."""
        with self._lock:
            running = [
                one
                for one in self.services
                if one.name.startswith(prefix) and one.child is not None and not one.expected
            ]
            service = running[victim % len(running)]
            assert service.child is not None
            service.expected = True
            os.kill(service.child.pid, number)
            return service.name

    def workers(self) -> dict[int, str]:
        """Return the running workers that are not stopped: pid → name of the supervisor."""
        found = {}
        with self._lock:
            for service in self.services:
                if service.child is None or not service.name.startswith("supervisor"):
                    continue
                for pid in _below(service.child.pid):
                    if pid not in self._stopped:
                        found[pid] = service.name
        return found

    def stop_worker(self, pid: int, name: str) -> None:
        """Stop a worker with SIGSTOP."""
        with self._lock:
            self._stopped[pid] = name
            os.kill(pid, signal.SIGSTOP)

    def wake_worker(self, pid: int) -> None:
        """Wake a stopped worker, which may have been killed meanwhile."""
        with self._lock:
            self._stopped.pop(pid, None)
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                return

    def unasked(self) -> list[Unasked]:
        """Return the ends of services that the chaos run did not cause."""
        return [one for service in self.services for one in service.ended]

    @contextmanager
    def tended(self) -> Iterator[None]:
        """Keep the services running, in a thread, for the block."""
        over = threading.Event()

        def tend() -> None:
            while not over.wait(0.05):
                self.tend()

        # the lifelines of the children are pipes, and do not depend on the thread that opens them
        thread = threading.Thread(target=tend, name="init", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def leave(self, seconds: float = 30) -> list[str]:
        """Ask all services to end, as when a host shuts down; returns what did not end in time."""
        with self._lock:
            self._closed = True
            for pid in list(self._stopped):
                self.wake_worker(pid)
            for service in self.services:
                if service.child is not None:
                    service.expected = True
                    service.child.terminate()
        late: list[str] = []
        deadline = time.monotonic() + seconds
        for service in self.services:
            if service.child is not None:
                try:
                    service.child.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    late.append(f"{service.name} did not end within {seconds:.0f} s of SIGTERM")
        if not late and not eventually(lambda: not list(_marked(self._environment[MARKS])), 5):
            late += [
                f"left behind: {' '.join(one.cmdline())}"
                for one in _marked(self._environment[MARKS])
            ]
        return late

    def close(self) -> None:
        """Kill everything that still runs, stopped processes and orphans included."""
        with self._lock:
            self._closed = True
            for service in self.services:
                child, service.child = service.child, None
                if child is not None:
                    child.kill()
                    child.wait()
                    child.close()
            for process in _marked(self._environment[MARKS]):
                process.kill()

    def _start(self, service: Service) -> None:
        with (self._logs / f"{service.name}.log").open("ab") as log:
            service.child = lifeline.spawn(
                service.module,
                service.arguments,
                env=self._environment,
                stdout=log,
                stderr=log,
                cwd=APPS,
            )


def _below(pid: int) -> list[int]:
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return sorted(one.pid for one in below if not is_gone(one.pid))


def _marked(folder: str) -> Iterator[psutil.Process]:
    """Find the processes whose environment names the folder of marks of this run."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARKS) == folder:
                yield process
        except psutil.Error:
            continue
