"""The application: its descriptions, and the answers for errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from tests.support.http_interface import client_of, create, queue_and_store
from tests.support.played_worker import PlayedWorker
from vidan.api import application, request_bodies
from vidan.config import Settings
from vidan.db.session import Database
from vidan.errors import SchemaMismatch
from vidan.services import scenarios


@pytest.mark.parametrize(("page", "files"), [("/docs", 3), ("/redoc", 2)])
def test_the_pages_of_the_description_load_nothing_from_elsewhere(
    client: TestClient, page: str, files: int
) -> None:
    answer = client.get(page)

    assert answer.status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->", "", answer.text).replace("</", "")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    named = set(re.findall(r"""(?:src|href)=["']([^"']+)["']""", answer.text))
    assert len(named) == files
    for name in named:
        file = client.get(f"/{name}")
        assert file.status_code == 200
        assert len(file.content) > 500
        assert file.headers["content-type"].startswith(("text/", "image/"))


def test_the_description_names_every_route(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/scenario/", "/scenario/{scenario_id}/", "/prediction/{scenario_id}/"} <= set(paths)


def test_the_description_names_every_answer_and_its_one_shape(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            expected = {"200", "401", "403", "500", "503"}
            expected |= set() if path == "/health" else {"422"}
            expected |= {"400", "408", "413"} if method == "post" else set()
            expected |= {"404"} if "{scenario_id}" in path else set()
            expected |= {"409"} if method == "post" else set()
            assert set(answers) == expected, (path, method)
            for code in expected - {"200"}:
                shape = answers[code]["content"]["application/json"]["schema"]
                assert shape == {"$ref": "#/components/schemas/Problem"}


def test_every_refusal_has_the_described_shape(client: TestClient) -> None:
    json_type = {"Content-Type": "application/json"}
    answers = {
        422: [
            client.post("/scenario/", json={}),
            client.post("/scenario/", content=b"{", headers=json_type),
            client.post("/scenario/", json={"status": "active"}),
            client.get("/prediction/1/?limit=0"),
            client.get("/prediction/1/?frame=1&limit=1"),
            client.get("/scenario/x/"),
        ],
        400: [client.post("/scenario/", content=b"[" * 100_000, headers=json_type)],
        404: [client.get("/scenario/1/"), client.get("/nowhere")],
        405: [client.delete("/scenario/1/")],
        413: [create(client, key="k" * request_bodies.LARGEST_BODY)],
    }
    for status, found in answers.items():
        for answer in found:
            assert answer.status_code == status, answer.text
            assert list(answer.json()) == ["detail"]
            assert isinstance(answer.json()["detail"], str)


def test_a_body_that_is_too_long_is_refused(client: TestClient) -> None:
    assert create(client, key="k" * request_bodies.LARGEST_BODY).status_code == 413


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


def test_an_old_schema_names_the_fix(settings: Settings, empty_database_url: str) -> None:
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
