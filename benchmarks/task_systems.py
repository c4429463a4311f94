"""The systems that `benchmarks/tasks.py` compares, each with its worker processes.

They share one PostgreSQL and one Redis; each is used through its own API and its own tables.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg
from sqlalchemy import text

from tests.support import stack
from tests.support.durable_postgres import DurablePostgres
from tests.support.kafka import HostedBroker, RealKafka
from tests.support.ports import free_ports
from vidan.broker import connect
from vidan.db import schema
from vidan.db.session import Database
from vidan.domain.worker import WorkerOptions
from vidan.processes import lifeline
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
CHUNK = 1000
"""Tasks created by one call, in systems that have a call for many."""


class Missing(Exception):
    """A server that the comparison needs is not installed."""


class System(Protocol):
    """A system with its workers running."""

    name: str

    def create(self, count: int) -> None:
        """Create `count` no-op tasks."""

    def stored(self, count: int) -> bool:
        """Whether the results of all created tasks (`count`) are stored."""

    def clear(self) -> None:
        """Delete all tasks and results."""

    @property
    def processes(self) -> Sequence[int]:
        """The ids of its processes and servers, without their children."""

    @property
    def workers(self) -> Sequence[int]:
        """The ids of the processes that run tasks, without their children."""

    def stop(self) -> None:
        """End the processes that this system started; the shared servers stay."""


class Timed(System, Protocol):
    """A system that reports when a single task began."""

    def one(self) -> Callable[[], Mapping[str, float]]:
        """Create a task; return a function that waits and gives each step's time (since 1970)."""


# --- processes


def tree(pids: Sequence[int]) -> list[psutil.Process]:
    """Return these processes and all their descendants."""
    roots = [psutil.Process(pid) for pid in pids]
    return [*roots, *(one for root in roots for one in root.children(recursive=True))]


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of this process, and of `pids` with all descendants, ended ones too."""
    total = time.process_time()
    for process in tree(pids):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def held_up(pids: Sequence[int]) -> Iterator[None]:
    """Suspend these processes and all descendants for the block (SIGSTOP)."""
    stopped = tree(pids)
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one (on Linux), in a session of its own."""
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with log.open("ab") as file:
        return subprocess.Popen(
            [*bound, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants, by their ids."""
    below = tree([process.pid])[1:] if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in below:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for a condition. Raises TimeoutError that names it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Redis:
    """A Redis that stores nothing on disk, which is fastest."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise Missing("needs a Redis server: apt-get install redis-server")
        (port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{port}"
        self.version = (
            subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
            .stdout.split()[2]
            .removeprefix("v=")
        )
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = started([program, *options, "--dir", str(folder)], folder / "redis.log", {})
        wait_until(self._answers, "Redis to answer")

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def client(self, database: int) -> Any:
        """Return a client of one of its databases."""
        return import_module("redis").Redis.from_url(f"{self.url}/{database}")

    def stop(self) -> None:
        """End the server."""
        ended(self._process)

    def _answers(self) -> bool:
        try:
            return bool(self.client(0).ping())
        except OSError:
            return False
        except Exception as error:  # redis has its own ConnectionError
            if type(error).__name__ != "ConnectionError":
                raise
            return False


# --- the systems


class VidanTasks:
    """vidan: an orchestrator and a supervisor with one worker, on one of the two brokers."""

    def __init__(
        self,
        postgres: DurablePostgres,
        server: HostedBroker | RealKafka,
        folder: Path,
        *,
        slots: int,
    ) -> None:
        embedded = isinstance(server, HostedBroker)
        self.name = f"vidan, {'embedded broker' if embedded else 'Kafka'}"
        folder.mkdir()
        url = postgres.create_database(f"vidan_{'embedded' if embedded else 'kafka'}")
        schema.upgrade(url)
        self._postgres, self._server = postgres, server
        self._database = Database(url)
        self._kept = ExitStack()
        settings = self._kept.enter_context(stack.found(folder, url, server))
        if not embedded:
            connect(settings).create_topics(4, 1)
        environment = settings.environment({**os.environ, "OMP_NUM_THREADS": "1"})
        post = WorkerOptions(name="bench", app="benchmarks.noops.vidan_app:app", slots=slots)
        posts = json.dumps([json.loads(post.to_json())])
        self._log = folder / "processes.log"
        with self._log.open("ab") as log:
            self._orchestrator = lifeline.spawn(
                "vidan.orchestrator", env=environment, stdout=log, stderr=log, cwd=ROOT
            )
            self._supervisor = lifeline.spawn(
                "vidan.supervisor",
                ["--posts", posts],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        wait_until(lambda: self._count("workers WHERE lease_until > now()") > 0, "vidan's worker")

    @property
    def processes(self) -> Sequence[int]:
        assert self._postgres.pid is not None
        pids = [self._orchestrator.pid, self._supervisor.pid, self._server.pid]
        return [*pids, self._postgres.pid]

    @property
    def workers(self) -> Sequence[int]:
        return [one.pid for one in psutil.Process(self._supervisor.pid).children()]

    def create(self, count: int) -> None:
        for begin in range(0, count, CHUNK):
            news = [NewScenario(task="noop")] * min(CHUNK, count - begin)
            with self._database.begin() as connection:
                creation.create_many(connection, news)

    def stored(self, count: int) -> bool:
        waits = "init_startup', 'init_startup_processing', 'active"
        if self._count(f"(SELECT 1 FROM scenarios WHERE status IN ('{waits}') LIMIT 1) s"):
            return False
        return self._count("scenarios WHERE status = 'completed'") == count

    def clear(self) -> None:
        with self._database.begin() as connection:
            connection.execute(text("TRUNCATE scenarios, transitions"))

    def one(self) -> Callable[[], Mapping[str, float]]:
        with self._database.begin() as connection:
            scenario_id = creation.create(connection, NewScenario(task="noop")).id

        def steps() -> Mapping[str, float]:
            of_this = f"scenarios WHERE id = {scenario_id} AND status = 'completed'"
            wait_until(lambda: self._count(of_this) == 1, "a single task")
            with self._database.begin() as connection:
                # the time of the task's first line, which runs after the claim is committed
                return {"started": scenarios.get(connection, scenario_id).result}

        return steps

    def stop(self) -> None:
        self._supervisor.stop(20)
        self._orchestrator.stop(20)
        self._database.close()
        self._kept.close()

    def _count(self, what: str) -> int:
        with self._database.begin() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one())


class CeleryTasks:
    """Celery with a prefork pool, acks_late, Redis as broker; results in PostgreSQL or Redis."""

    def __init__(
        self,
        postgres: DurablePostgres,
        redis: Redis,
        folder: Path,
        *,
        in_postgres: bool,
        pool: int,
        prefetch: int,
    ) -> None:
        self.name = f"Celery, results in {'PostgreSQL' if in_postgres else 'Redis'}"
        self._postgres = postgres if in_postgres else None
        self._redis = redis
        place = 0 if in_postgres else 2  # database of messages; results are in the next one
        results = f"{redis.url}/{place + 1}"
        self._results = None if in_postgres else redis.client(place + 1)
        self._connection: psycopg.Connection[Any] | None = None
        if in_postgres:
            url = postgres.create_database("celery")
            results = url.replace("postgresql://", "db+postgresql+psycopg://")
            self._connection = psycopg.connect(url, autocommit=True)
        environment = {
            "BENCH_CELERY_BROKER": f"{redis.url}/{place}",
            "BENCH_CELERY_RESULTS": results,
            "BENCH_CELERY_PREFETCH": str(prefetch),
        }
        self._noop = _loaded("benchmarks.noops.celery_app", environment).noop
        program = [sys.executable, "-m", "celery", "-A", "benchmarks.noops.celery_app", "worker"]
        options = ["--pool", "prefork", "--concurrency", str(pool), "--loglevel", "WARNING"]
        self._process = started([*program, *options], folder / "celery.log", environment)
        self._noop.delay().get(timeout=START_SECONDS)

    @property
    def processes(self) -> Sequence[int]:
        shared = self._redis.pid if self._postgres is None else self._postgres.pid
        assert shared is not None
        pids = [self._process.pid, self._redis.pid, shared]
        return list(dict.fromkeys(pids))

    @property
    def workers(self) -> Sequence[int]:
        return [self._process.pid]

    def create(self, count: int) -> None:
        for _ in range(count):
            self._noop.delay()

    def stored(self, count: int) -> bool:
        if self._connection is not None:
            sql = "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"
            (found,) = self._connection.execute(sql).fetchone() or (0,)
        else:
            found = self._results.dbsize()  # type: ignore[union-attr]
        return bool(found == count)

    def clear(self) -> None:
        if self._connection is not None:
            self._connection.execute("TRUNCATE celery_taskmeta, celery_tasksetmeta")
        else:
            self._results.flushdb()  # type: ignore[union-attr]

    def one(self) -> Callable[[], Mapping[str, float]]:
        result = self._noop.delay()
        return lambda: {"started": result.get(timeout=10)}

    def stop(self) -> None:
        ended(self._process)
        if self._connection is not None:
            self._connection.close()


class ProcrastinateTasks:
    """Procrastinate: one worker process that runs `concurrency` coroutines at once."""

    def __init__(self, postgres: DurablePostgres, folder: Path, *, concurrency: int) -> None:
        self.name = "Procrastinate"
        self._postgres = postgres
        url = postgres.create_database("procrastinate")
        environment = {"BENCH_PROCRASTINATE_DATABASE": url}
        self._noop = _loaded("benchmarks.noops.procrastinate_app", environment).noop
        self._connection = psycopg.connect(url, autocommit=True)
        self._app = self._noop.blueprint
        self._app.open()
        self._app.schema_manager.apply_schema()
        program = [sys.executable, "-m", "procrastinate"]
        options = ["-a", "benchmarks.noops.procrastinate_app.app", "worker"]
        options += ["--concurrency", str(concurrency)]
        self._process = started([*program, *options], folder / "procrastinate.log", environment)
        self.create(1)
        wait_until(lambda: self.stored(1), "Procrastinate's worker")

    @property
    def processes(self) -> Sequence[int]:
        assert self._postgres.pid is not None
        return [self._process.pid, self._postgres.pid]

    @property
    def workers(self) -> Sequence[int]:
        return [self._process.pid]

    def create(self, count: int) -> None:
        for begin in range(0, count, CHUNK):
            self._noop.batch_defer(*[{}] * min(CHUNK, count - begin))

    def stored(self, count: int) -> bool:
        sql = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
        (found,) = self._connection.execute(sql).fetchone() or (0,)
        return bool(found == count)

    def clear(self) -> None:
        self._connection.execute("TRUNCATE procrastinate_jobs CASCADE")

    def stop(self) -> None:
        ended(self._process)
        self._app.close()
        self._connection.close()


def _loaded(module: str, environment: Mapping[str, str]) -> Any:
    """Import the module again with these environment variables."""
    os.environ.update(environment)
    sys.modules.pop(module, None)
    return import_module(module)
