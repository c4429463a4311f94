"""The brokers of the tests: a real Apache Kafka and the embedded one, one of each per session.

Maven fetches the Apache Kafka server into tests/kafka/jars, where it stays between sessions.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.support.ports import free_ports
from vidan.config import Settings
from vidan.processes import lifeline

FOLDER = Path(__file__).resolve().parent.parent / "kafka"
JARS = FOLDER / "jars"
INSTALL = "apt-get install openjdk-17-jre-headless maven"
LEFT_OUT = "tests on a real Kafka are left out"
START_LIMIT = 90.0
"""Longest time, in seconds, that a broker may take to start on a busy machine."""


class RealKafka:
    """An Apache Kafka of one node (KRaft), on a free port that it keeps over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        port, controller_port = free_ports(2)
        self.bootstrap_servers = f"127.0.0.1:{port}"
        self._properties = folder / "server.properties"
        template = (FOLDER / "server.properties").read_text(encoding="utf-8")
        self._properties.write_text(
            template.format(port=port, controller_port=controller_port, folder=folder / "log"),
            encoding="utf-8",
        )
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        subprocess.run(
            _java(
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster_id}",  # one word, because the id may begin with -
                "-c",
                self._properties,
            ),
            check=True,
            capture_output=True,
        )

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                _java("kafka.Kafka", self._properties),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT
        # By default the client would try to connect only every ten seconds
        often = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, **often})
        while True:
            try:
                client.list_topics(timeout=1)
            except KafkaException:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.stop()
                    tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                    raise RuntimeError(f"Apache Kafka did not start:\n{tail}") from None
            else:
                return

    def kill(self) -> None:
        """End the server with SIGKILL. After `start` it has all that it stored."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End the server. After `start` it has all that it stored."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class HostedBroker:
    """The embedded broker in a process of its own. Each start chooses another port."""

    def __init__(self, address_file: Path) -> None:
        self.address_file = address_file
        self._child: lifeline.Child | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address of the broker that runs now."""
        return self.address_file.read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        """The id of the process that hosts the broker."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start the broker and wait for a new address; a killed broker has left its old one."""
        before = self._written()
        self._child = lifeline.spawn(
            "vidan.broker.embedded", ["--address-file", str(self.address_file)]
        )
        deadline = time.monotonic() + START_LIMIT
        while self._written() in (None, before):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("the embedded broker did not start")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the broker, which forgets everything."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(10)

    def kill(self) -> None:
        """End the broker with SIGKILL, so that its address stays in the file."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            child.close()

    def _written(self) -> int | None:
        """The time at which the address was written, or None without an address."""
        try:
            return self.address_file.stat().st_mtime_ns
        except OSError:
            return None


@dataclass(frozen=True)
class EmbeddedSettings(Settings):
    """Settings that find the embedded broker by an address file, without an embedded stack."""

    address_file: Path = Path()

    def bootstrap_servers(self) -> str | None:
        """The content of the file, or None if there is no file."""
        try:
            return self.address_file.read_text(encoding="utf-8")
        except OSError:
            return None


def require_kafka() -> None:
    """Skip the test if Java or Maven is missing; with CI=true fail it."""
    if lacking := fetch():
        reason = f"{LEFT_OUT}: {lacking}; fix it with: {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    """An Apache Kafka for the whole session."""
    require_kafka()
    kafka = RealKafka(tmp_path_factory.mktemp("kafka"))
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedBroker]:
    """An embedded broker in a process of its own, for the whole session."""
    broker = HostedBroker(tmp_path_factory.mktemp("embedded") / "broker.address")
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Which of the two brokers the test uses: it runs once on each."""
    kind: str = request.param
    return kind


@pytest.fixture
def broker_server(broker_kind: str, request: pytest.FixtureRequest) -> RealKafka | HostedBroker:
    """The running broker of this kind. A test that stops the broker has to start it again."""
    fixture = {"embedded": "embedded_broker", "kafka": "real_kafka"}[broker_kind]
    server: RealKafka | HostedBroker = request.getfixturevalue(fixture)
    return server


@pytest.fixture
def broker_settings(broker_server: RealKafka | HostedBroker, tmp_path: Path) -> Settings:
    """Settings with the broker of this kind, and without a database."""
    if isinstance(broker_server, HostedBroker):
        return EmbeddedSettings(home=tmp_path, address_file=broker_server.address_file)
    return Settings(home=tmp_path, kafka={"bootstrap.servers": broker_server.bootstrap_servers})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all skipped Kafka tests the same place, so that the summary has one line for them."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and LEFT_OUT in report.longrepr[2]:
        report.longrepr = ("tests/support/kafka.py", 0, report.longrepr[2])
    return report


def fetch() -> str | None:
    """Fetch the jars of Apache Kafka if they are missing; returns what prevents that, or None.

    If several test processes call this at once, one fetches and the others wait.
    """
    with (FOLDER / "pom.xml").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _fetch_alone()


def _fetch_alone() -> str | None:
    if shutil.which("java") is None:
        return "there is no Java"
    pom = FOLDER / "pom.xml"
    complete = JARS / f"complete-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if complete.exists():
        return None
    if shutil.which("mvn") is None:
        return "there is no Maven"
    shutil.rmtree(JARS, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    command.append(f"-DoutputDirectory={JARS}")
    fetched = subprocess.run(command, capture_output=True, text=True)
    if fetched.returncode != 0:
        errors = [line for line in fetched.stdout.splitlines() if line.startswith("[ERROR]")]
        return f"Maven could not fetch Apache Kafka ({errors[0] if errors else 'no reason given'})"
    complete.touch()
    return None


def _java(main: str, *args: str | Path) -> list[str]:
    """The command that runs a class of Kafka; on Linux it dies with the process that started it."""
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    quick = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return [*bound, "java", *quick, quiet, "-cp", f"{JARS}/*", main, *map(str, args)]
