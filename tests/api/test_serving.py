"""Starting and stopping the server: its sockets, signals, and messages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.http_interface import queue_and_store
from tests.support.played_worker import PlayedWorker
from tests.support.ports import free_port
from tests.support.processes import eventually
from vidan import api
from vidan.api import serving
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import MissingExtra, UsageError
from vidan.services import steering


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_off_loopback_it_does_not_start_without_a_token(settings: Settings, host: str) -> None:
    with pytest.raises(UsageError, match="VIDAN_API_TOKEN"):
        api.serve(settings, host, 0)


@pytest.mark.parametrize("host", ["", "no.such.host.invalid"])
def test_a_host_that_does_not_exist(settings: Settings, host: str) -> None:
    with pytest.raises(UsageError, match="no such host"):
        api.serve(settings, host, 0)


def test_without_the_extra_it_names_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_spec", lambda _: None)

    with pytest.raises(MissingExtra) as caught:
        api.serve(settings)
    assert caught.value.hint == 'pip install "vidan[api]"'
    with pytest.raises(SystemExit, match=r'pip install "vidan\[api\]"'):
        _ = api.app


def test_importing_it_loads_nothing_and_reads_no_environment() -> None:
    program = (
        "import os, sys; os.environ['DATABASE_URL'] = 'nonsense'; import vidan.api;"
        "print(sorted({'fastapi', 'uvicorn', 'sqlalchemy', 'vidan.config'} & set(sys.modules)))"
    )

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_other_attributes_do_not_exist() -> None:
    assert not hasattr(api, "nothing")


def start(database_url: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "DATABASE_URL": database_url, "VIDAN_DOTENV": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_it_answers(server: subprocess.Popen[str], port: int) -> None:
    def answers() -> bool:
        assert server.poll() is None, server.communicate()
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx2.TransportError:
            return False

    assert eventually(answers, 60)


@pytest.fixture
def server(database_url: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    process = start(database_url, "vidan", "api", "--port", str(port))
    wait_until_it_answers(process, port)
    yield process, port
    process.kill()
    process.communicate()


def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    (listening,) = serving._listen([(socket.AF_INET, "127.0.0.1")], "127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_real_server(
    server: tuple[subprocess.Popen[str], int], worker: PlayedWorker, number: int, code: int
) -> None:
    process, port = server
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        created = client.post("/scenario/", json={"status": "init_startup"})
        assert (created.status_code, created.json()) == (200, {"scenario_id": 1})
        worker.claim()
        worker.store(range(2000), found=2)
        answer = client.get("/prediction/1/")

    assert answer.headers["transfer-encoding"] == "chunked"
    found = answer.json()["predictions"]["predictions"]
    assert found[:2] == [
        {"class": "person", "confidence": 0.9},
        {"class": "car", "confidence": 0.8},
    ]
    assert len(found) == 4000

    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert output == ""
    assert "Traceback" not in errors
    assert "error" not in errors.lower()
    assert f"listening on http://127.0.0.1:{port}" in errors
    assert '"GET /prediction/1/ HTTP/1.1" 200' in errors


def test_a_client_that_leaves_in_the_middle_is_no_error(
    server: tuple[subprocess.Popen[str], int], database: Database, worker: PlayedWorker
) -> None:
    process, port = server
    queue_and_store(worker, range(20_000), found=8)
    with (
        httpx2.Client() as client,
        client.stream("GET", f"http://127.0.0.1:{port}/prediction/1/?detail=true") as answer,
    ):
        next(answer.iter_raw())

    assert httpx2.get(f"http://127.0.0.1:{port}/scenario/1/").json()["id"] == 1
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors


def test_an_answer_that_cannot_be_finished_does_not_look_whole(
    server: tuple[subprocess.Popen[str], int], database: Database, worker: PlayedWorker
) -> None:
    _, port = server
    queue_and_store(worker, range(20_000), found=8)
    worker.end(Status.COMPLETED)
    with (
        httpx2.Client() as client,
        client.stream("GET", f"http://127.0.0.1:{port}/prediction/1/?detail=true") as answer,
    ):
        assert answer.status_code == 200
        parts = answer.iter_raw()
        next(parts)  # the rest is more than fits into the sockets' buffers: the server waits
        with database.begin() as connection:
            steering.delete(connection, 1)
        with pytest.raises(httpx2.RemoteProtocolError):
            list(parts)


BUSY = """
import signal, sys
from vidan import config
from vidan.api import serving
from vidan.services import scenarios

def get(*_):
    while True:
        pass

scenarios.get = get
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
serving.STOP_SECONDS, serving.LAST_SECONDS = 1, 2
serving.serve(config.load(), "127.0.0.1", int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_the_middle_of_a_request_that_never_ends(
    database_url: str, number: int
) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(port)],
        env={**os.environ, "DATABASE_URL": database_url, "VIDAN_DOTENV": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_it_answers(process, port)
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(f"http://127.0.0.1:{port}/scenario/1/", timeout=1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + number
    assert "a request did not end in 2 s" in errors


def test_a_port_in_use_is_told_in_one_line(
    server: tuple[subprocess.Popen[str], int], database_url: str
) -> None:
    _, port = server

    second = start(database_url, "vidan", "api", "--port", str(port))
    output, errors = second.communicate(timeout=60)

    assert (second.returncode, output) == (1, "")
    assert f"can't listen on 127.0.0.1, port {port}: address already in use" in errors
    assert "Traceback" not in errors


def test_any_asgi_server_can_run_it(database_url: str) -> None:
    port = free_port()
    process = start(
        database_url, "uvicorn", "vidan.api:app", "--host", "127.0.0.1", "--port", str(port)
    )
    try:
        wait_until_it_answers(process, port)
        url = f"http://127.0.0.1:{port}"
        created = httpx2.post(f"{url}/scenario/", json={"status": "init_startup"})
        assert created.json() == {"scenario_id": 1}
        refused = httpx2.get(f"{url}/scenario/1/", headers={"Host": "rebound.example"})
        assert refused.status_code == 403
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_an_asgi_server_that_cannot_start_shows_one_line(empty_database_url: str) -> None:
    process = start(empty_database_url, "uvicorn", "vidan.api:app", "--port", str(free_port()))
    _, errors = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "vidan db upgrade" in errors
    assert "Traceback" not in errors


def test_many_connections_at_once_leave_open_files(database_url: str) -> None:
    port = free_port()
    few_files = ["bash", "-c", 'ulimit -n 128; exec "$@"', "-", sys.executable]
    process = subprocess.Popen(
        [*few_files, "-m", "vidan", "api", "--port", str(port)],
        env={**os.environ, "DATABASE_URL": database_url, "VIDAN_DOTENV": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_it_answers(process, port)
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
        for one in held:
            one.close()
        assert eventually(
            lambda: httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200, 20
        )
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert "which is the most" in said
    assert "out of system resource" not in said
    assert said.count("\n") < 100
