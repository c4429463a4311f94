from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from tests.support.played_worker import PlayedWorker
from tests.support.ports import free_port
from tests.support.processes import eventually
from vidan import api
from vidan.api import application, streaming
from vidan.config import Settings
from vidan.db.session import Database
from vidan.detection import catalogue
from vidan.domain.status import Status
from vidan.errors import MissingExtra, NotFoundError, SchemaMismatch, UsageError
from vidan.protocol import commits, creation
from vidan.protocol.creation import NewScenario
from vidan.services import predictions, scenarios, steering

HERE = "http://127.0.0.1:8000"
TOKEN = "correct-horse"
PICTURES = catalogue.sample_video().read_bytes()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=database_url)


@pytest.fixture
def client(settings: Settings, database: Database) -> TestClient:
    return client_of(settings, database)


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    return PlayedWorker(database, source="/videos/street.mp4")


def client_of(settings: Settings, database: Database, base_url: str = HERE) -> TestClient:
    return TestClient(
        application.build(settings, database), base_url=base_url, raise_server_exceptions=False
    )


def create(client: TestClient, **more: Any) -> httpx2.Response:
    return client.post("/scenario/", json={"status": "init_startup", **more})


def queue_and_store(worker: PlayedWorker, frames: range, *, found: int = 1) -> int:
    with worker.database.begin() as connection:
        creation.create(connection, NewScenario())
    scenario_id = worker.claim()
    worker.store(frames, found=found)
    return scenario_id


def found_in(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["predictions"]["predictions"]
    return items


# The contract of the first system's clients


def test_a_scenario_as_the_first_systems_clients_see_it(
    client: TestClient, worker: PlayedWorker
) -> None:
    created = create(client)
    assert (created.status_code, created.json()) == (200, {"scenario_id": 1})
    assert client.get("/scenario/1/").json() == {"id": 1, "status": "init_startup"}

    started = client.post("/scenario/1/", json={"status": "active"})
    assert started.status_code == 200
    assert started.json() == {"status": "updated", "scenario_id": "1"}
    worker.claim()
    assert client.get("/scenario/1/").json() == {"id": 1, "status": "active"}

    stopped = client.post("/scenario/1/", json={"status": "init_shutdown"})
    assert stopped.json() == {"status": "updated", "scenario_id": "1"}
    assert client.get("/scenario/1/").json() == {"id": 1, "status": "init_shutdown"}


def test_predictions_as_the_first_systems_clients_see_them(
    client: TestClient, database: Database, worker: PlayedWorker
) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario())
    worker.claim()
    assert worker.fence is not None
    rows = [commits.Row(7, 280, [0], [0.95], [1.0, 2.0, 3.0, 4.0])]
    batch = commits.Batch(0, 8, None, "{}", ["person"], rows)
    with database.begin() as connection:
        commits.commit(connection, worker.fence, batch)

    answer = client.get("/prediction/1/")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "scenario_id": 1,
        "predictions": {"predictions": [{"class": "person", "confidence": 0.95}]},
    }


def test_a_scenario_without_predictions_has_an_empty_list(client: TestClient) -> None:
    create(client)

    assert client.get("/prediction/1/").json() == {
        "scenario_id": 1,
        "predictions": {"predictions": []},
    }


def test_documentation_pages(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    assert client.get("/redoc").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/scenario/", "/scenario/{scenario_id}/", "/prediction/{scenario_id}/"} <= set(paths)


# Reading predictions


def test_every_detection_comes_in_frame_order_over_all_pages(
    client: TestClient, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PAGE", 3)
    queue_and_store(worker, range(10), found=2)

    found = found_in(client.get("/prediction/1/?detail=true"))

    assert [item["frame"] for item in found] == [frame for frame in range(10) for _ in "ab"]
    assert found[:2] == [
        {
            "class": "person",
            "confidence": 0.9,
            "frame": 0,
            "time_ms": 0,
            "box": [0.0, 2.0, 30.0, 40.0],
            "track_id": None,
        },
        {
            "class": "car",
            "confidence": 0.8,
            "frame": 0,
            "time_ms": 0,
            "box": [1.0, 2.0, 31.0, 40.0],
            "track_id": None,
        },
    ]


@pytest.mark.parametrize(
    ("query", "frames"),
    [
        ("frame=4", [4]),
        ("frame=0", [0]),
        ("frame=5", []),
        ("frame=99", []),
        ("after=4", [6, 8, 10]),
        ("after=-1&limit=2", [0, 2]),
        ("limit=4", [0, 2, 4, 6]),
        ("after=6&limit=50", [8, 10]),
        ("after=10", []),
        (f"after={2**63 - 1}", []),
    ],
)
def test_predictions_are_narrowed(
    client: TestClient, worker: PlayedWorker, query: str, frames: list[int]
) -> None:
    queue_and_store(worker, range(0, 12, 2))

    found = found_in(client.get(f"/prediction/1/?detail=true&{query}"))

    assert [item["frame"] for item in found] == frames


def test_a_limit_counts_frames_that_show_something(
    client: TestClient, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PAGE", 2)
    queue_and_store(worker, range(5), found=0)
    worker.store(range(5, 8), found=2)

    found = found_in(client.get("/prediction/1/?detail=true&limit=2"))

    assert [item["frame"] for item in found] == [5, 5, 6, 6]


@pytest.mark.parametrize(
    "query", ["frame=-1", "limit=0", "limit=-3", "after=-2", "frame=x", "frame=1&after=0"]
)
def test_senseless_narrowing_is_refused(client: TestClient, query: str) -> None:
    create(client)

    answer = client.get(f"/prediction/1/?{query}")

    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_the_answer_is_json_whatever_a_detector_gave(
    client: TestClient, database: Database, worker: PlayedWorker
) -> None:
    with database.begin() as connection:
        creation.create(connection, NewScenario())
    worker.claim()
    assert worker.fence is not None
    rows = [commits.Row(0, 0, [0], [float("nan")], [float("inf"), 0.0, 1.0, 1.0])]
    batch = commits.Batch(0, 1, None, "{}", ['"]}\nкот'], rows)
    with database.begin() as connection:
        commits.commit(connection, worker.fence, batch)

    (found,) = found_in(client.get("/prediction/1/?detail=true"))

    assert found["class"] == '"]}\nкот'
    assert found["confidence"] is None
    assert found["box"] == [None, 0.0, 1.0, 1.0]


def test_what_is_stored_while_it_is_read_does_not_prolong_the_answer(
    client: TestClient, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PAGE", 2)
    queue_and_store(worker, range(4))
    read = predictions.read_after

    def read_and_store(*arguments: Any, **options: Any) -> list[predictions.StoredFrame]:
        worker.store(range(worker.checkpoint, worker.checkpoint + 2))
        return read(*arguments, **options)

    monkeypatch.setattr(predictions, "read_after", read_and_store)

    found = found_in(client.get("/prediction/1/?detail=true"))

    assert [item["frame"] for item in found] == [0, 1, 2, 3]


def test_a_page_is_read_when_it_is_asked_for_and_an_error_breaks_the_answer_off(
    database: Database, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PAGE", 2)
    queue_and_store(worker, range(6))
    worker.end(Status.COMPLETED)
    pieces = streaming.document(1, streaming.pages(database, 1), detail=False)

    first = next(pieces)
    with database.begin() as connection:
        steering.delete(connection, 1)

    assert first.count(b"person") == 2
    with pytest.raises(NotFoundError):
        next(pieces)


# Creating


def test_a_create_body_carries_source_task_params_and_key(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    video = tmp_path / "street.mp4"
    video.write_bytes(PICTURES)
    client = client_of(replace(settings, source_roots=(tmp_path,)), database)
    params = {"labels": ["person"], "every": 2}

    for _ in range(2):  # a request that is repeated finds the key
        answer = create(client, source="street.mp4", task="detect", params=params, key="street-1")
        assert answer.json() == {"scenario_id": 1}

    shown = client.get("/scenario/1/?detail=true").json()
    assert (shown["source"], shown["params"], shown["key"]) == (str(video), params, "street-1")
    with database.begin() as connection:
        assert [change.actor for change in scenarios.history(connection, 1)] == ["http"]


def test_a_scenario_can_be_held_back(client: TestClient) -> None:
    client.post("/scenario/", json={"status": "inactive"})

    assert client.get("/scenario/1/").json() == {"id": 1, "status": "inactive"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"status":',
        b"{}",
        b'{"status": "nonsense"}',
        b'{"status": NaN}',
        b'{"status": "active"}',
        b'{"status": "init_startup", "sorce": "street.mp4"}',
        b'{"status": "init_startup", "task": "nope"}',
        b'{"status": "init_startup", "params": {"nope": 1}}',
        b'{"status": "init_startup", "params": {"min_score": NaN}}',
        b'{"status": "init_startup", "params": {"model": "os:abort"}}',
        b'{"status": "init_startup", "params": {"weights": "/etc/passwd"}}',
        b'{"status": "init_startup", "key": ""}',
        b'{"status": "init_startup", "key": "' + b"k" * 3000 + b'"}',
        b'{"status": "init_startup", "key": "\\u0000"}',
        b'{"status": "init_startup", "key": "\\ud800"}',
        b'{"status": "init_startup", "params": {"model": "\\ud800"}}',
        b'{"status": "init_startup", "\\ud800": 1}',
    ],
)
def test_a_bad_create_body_queues_nothing(
    client: TestClient, database: Database, body: bytes
) -> None:
    answer = client.post("/scenario/", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["detail"]
    with database.begin() as connection:
        assert scenarios.find(connection) == []


def test_a_body_that_is_too_long_is_refused(client: TestClient) -> None:
    assert create(client, key="k" * application.LARGEST_BODY).status_code == 413


# Sources


def test_without_roots_sources_are_refused(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "street.mp4").write_bytes(PICTURES)

    answer = create(client, source=str(tmp_path / "street.mp4"))

    assert answer.status_code == 422
    assert "VIDAN_SOURCE_ROOTS" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{outside}/secret.mp4", "not below"),
        ("{outside}/nothing-there.mp4", "not below"),
        ("{root}/../outside/secret.mp4", "not below"),
        ("../outside/secret.mp4", "not below"),
        ("{root}/link.mp4", "not below"),
        ("{root}/folder-link/secret.mp4", "not below"),
        ("{root}-twin/video.mp4", "not below"),
        ("{root}/loop", "not below"),
        ("{root}", "not below"),
        ("", "not below"),
        ("a\0b", "not below"),
        ("rtsp://camera/1", "not a URL"),
        ("http://camera/1.mp4", "not a URL"),
        ("file://{root}/video.mp4", "not a URL"),
        ("concat:{root}/video.mp4", "does not exist"),
        ("missing.mp4", "does not exist"),
        ("folder", "is not a file"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "text.mp4"),
        ("x" * 300, "can't be looked at"),
    ],
)
def test_sources_come_from_below_the_roots_only(
    settings: Settings, database: Database, tmp_path: Path, source: str, problem: str
) -> None:
    root, outside, twin = (tmp_path / name for name in ("root", "outside", "root-twin"))
    for folder in (root, outside, twin, root / "folder"):
        folder.mkdir()
    for file in (outside / "secret.mp4", root / "video.mp4", twin / "video.mp4"):
        file.write_bytes(PICTURES)
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("these are no pictures")
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder-link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    client = client_of(replace(settings, source_roots=(root,)), database)

    answer = create(client, source=source.format(root=root, outside=outside))

    assert answer.status_code == 422, answer.text
    assert problem in answer.json()["detail"]
    assert client.get("/scenario/1/").status_code == 404


def test_a_link_inside_a_root_is_stored_as_the_file_it_leads_to(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    real, second = tmp_path / "real", tmp_path / "second"
    real.mkdir()
    second.mkdir()
    (tmp_path / "root").symlink_to(real)
    (real / "video.mp4").write_bytes(PICTURES)
    (real / "link.mp4").symlink_to("video.mp4")
    client = client_of(replace(settings, source_roots=(second, tmp_path / "root")), database)

    assert create(client, source="link.mp4").status_code == 200

    shown = client.get("/scenario/1/?detail=true").json()
    assert shown["source"] == str(real.resolve() / "video.mp4")


# What is refused


@pytest.mark.parametrize("scenario_id", ["2", "0", "-1", str(2**63), "9" * 40])
def test_unknown_scenarios(client: TestClient, scenario_id: str) -> None:
    create(client)

    for answer in (
        client.get(f"/scenario/{scenario_id}/"),
        client.post(f"/scenario/{scenario_id}/", json={"status": "active"}),
        client.get(f"/prediction/{scenario_id}/"),
        client.get(f"/prediction/{scenario_id}/?frame=1"),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"detail": f"no scenario {scenario_id}"}


def test_a_change_that_is_not_allowed_from_here(client: TestClient, worker: PlayedWorker) -> None:
    queue_and_store(worker, range(3))
    worker.end(Status.COMPLETED)

    for status in ("active", "inactive"):
        answer = client.post("/scenario/1/", json={"status": status})
        assert answer.status_code == 409
        assert "completed" in answer.json()["detail"]
    assert client.get("/scenario/1/").json()["status"] == "completed"


def test_statuses_that_only_workers_set(client: TestClient) -> None:
    create(client)

    answer = client.post("/scenario/1/", json={"status": "completed"})

    assert answer.status_code == 409
    assert "active, inactive, init_shutdown, init_startup" in answer.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"status": "nonsense"}, {"status": "active", "x": 1}, []])
def test_a_bad_change_body_changes_nothing(client: TestClient, body: Any) -> None:
    create(client)

    answer = client.post("/scenario/1/", json=body)

    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert client.get("/scenario/1/").json()["status"] == "init_startup"


def test_a_form_that_a_foreign_page_could_send_is_refused(client: TestClient) -> None:
    answer = client.post(
        "/scenario/", content='{"status": "init_startup"}', headers={"Content-Type": "text/plain"}
    )

    assert answer.status_code == 422


def test_without_a_database_it_says_so_and_not_where(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://somebody:secret@127.0.0.1:1/nowhere"
    database = Database(url)
    client = client_of(settings, database)

    answers = [client.get("/scenario/1/"), client.get("/health"), create(client)]
    database.close()

    for answer in answers:
        assert answer.status_code == 503
        assert answer.json() == {"detail": "the database can't be reached"}
    assert "can't reach the database" in caplog.text
    assert "secret" not in caplog.text


def test_an_old_schema_names_the_mend(settings: Settings, empty_database_url: str) -> None:
    database = Database(empty_database_url)

    answer = client_of(settings, database).get("/health")
    database.close()

    assert answer.status_code == 503
    assert "vidan db upgrade" in answer.json()["detail"]
    with pytest.raises(SchemaMismatch):
        application.open_database(replace(settings, database_url=empty_database_url))


def test_an_unexpected_error_shows_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("postgresql://somebody:secret@host/db")

    monkeypatch.setattr(scenarios, "get", fail)

    answer = client.get("/scenario/1/")

    assert answer.status_code == 500
    assert answer.json() == {"detail": "internal error: see the server's log"}


def test_health(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}


# Who may ask


@pytest.mark.parametrize(
    ("base_url", "host", "status"),
    [
        ("http://127.0.0.1:8000", None, 200),
        ("http://127.0.0.1:8000", "localhost:8000", 200),
        ("http://127.0.0.1:8000", "[::1]:8000", 200),
        ("http://[::1]:8000", None, 200),
        ("http://[::ffff:127.0.0.1]:8000", None, 200),
        ("http://127.0.0.1:8000", "rebound.example:8000", 403),
        ("http://127.0.0.1:8000", "127.0.0.1.example", 403),
        ("http://127.0.0.1:8000", "[", 403),
        ("http://10.1.2.3:8000", None, 403),
        ("http://10.1.2.3:8000", "localhost", 403),
        ("http://[::ffff:10.1.2.3]:8000", "localhost", 403),
        ("http://unix-socket", "localhost", 403),
    ],
)
def test_without_a_token_only_this_machine_is_answered(
    settings: Settings, database: Database, base_url: str, host: str | None, status: int
) -> None:
    client = client_of(settings, database, base_url)
    headers = {} if host is None else {"Host": host}

    for path in ("/health", "/docs", "/openapi.json"):
        assert client.get(path, headers=headers).status_code == status
    created = client.post("/scenario/", json={"status": "init_startup"}, headers=headers)
    assert created.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("Authorization", "")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", "Bearer wrong")], 401),
        ([("Authorization", f"Bearer {TOKEN}x")], 401),
        ([("Authorization", f"Bearer {TOKEN[:-1]}")], 401),
        ([("Authorization", f"Basic {TOKEN}")], 401),
        ([("Authorization", TOKEN)], 401),
        ([("Authorization", b"Bearer \xff\xfe")], 401),
        ([("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer wrong")], 401),
        ([("Authorization", f"Bearer {TOKEN}")], 200),
        ([("authorization", f"bearer {TOKEN}")], 200),
    ],
)
@pytest.mark.parametrize("base_url", [HERE, "http://vidan.example"])
def test_with_a_token_every_request_has_to_carry_it(
    settings: Settings, database: Database, base_url: str, headers: Any, status: int
) -> None:
    client = client_of(replace(settings, api_token=TOKEN), database, base_url)
    with database.begin() as connection:
        creation.create(connection, NewScenario())

    for answer in (
        client.get("/scenario/1/", headers=headers),
        client.get("/prediction/1/", headers=headers),
        client.post("/scenario/1/", json={"status": "active"}, headers=headers),
        client.post("/scenario/", json={"status": "inactive"}, headers=headers),
    ):
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text
    with database.begin() as connection:
        assert len(scenarios.find(connection)) == (2 if status == 200 else 1)


def test_with_a_token_documentation_and_health_stay_open(
    settings: Settings, database: Database
) -> None:
    client = client_of(replace(settings, api_token=TOKEN), database, "http://vidan.example")

    for path in ("/docs", "/redoc", "/openapi.json", "/health"):
        assert client.get(path).status_code == 200
    for path in ("/docs/", "/health/", "//health", "/health/../scenario/1/"):
        assert client.get(path, follow_redirects=False).status_code == 401
    described = client.get("/openapi.json").json()["components"]["securitySchemes"]
    assert described["HTTPBearer"]["scheme"] == "bearer"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_off_loopback_it_does_not_start_without_a_token(settings: Settings, host: str) -> None:
    with pytest.raises(UsageError, match="VIDAN_API_TOKEN"):
        api.serve(settings, host, 0)


@pytest.mark.parametrize("token", ["two words", "tökén", "line\nbreak"])
def test_a_token_that_no_header_can_carry(settings: Settings, token: str) -> None:
    with pytest.raises(UsageError, match="VIDAN_API_TOKEN"):
        api.serve(replace(settings, api_token=token), "127.0.0.1", 0)


@pytest.mark.parametrize("host", ["", "no.such.host.invalid"])
def test_a_host_that_does_not_exist(settings: Settings, host: str) -> None:
    with pytest.raises(UsageError, match="no such host"):
        api.serve(settings, host, 0)


# Starting and stopping


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


def test_the_answers_have_the_shapes_that_the_description_names(
    client: TestClient, worker: PlayedWorker
) -> None:
    queue_and_store(worker, range(2))
    described = client.get("/openapi.json").json()
    schemas = described["components"]["schemas"]

    found = client.get("/prediction/1/?detail=true").json()

    assert set(found) == set(schemas["Predictions"]["properties"])
    assert set(found["predictions"]["predictions"][0]) == set(schemas["Found"]["properties"])
    assert json.dumps(described).count("422") >= 3
