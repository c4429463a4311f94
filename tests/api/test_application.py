"""The application: its descriptions, and the answers for errors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from tests.support.http_interface import client_of, create, queue_and_store
from tests.support.played_worker import PlayedWorker
from vidan.api import application
from vidan.config import Settings
from vidan.db.session import Database
from vidan.errors import SchemaMismatch
from vidan.services import scenarios


def test_documentation_pages(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    assert client.get("/redoc").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/scenario/", "/scenario/{scenario_id}/", "/prediction/{scenario_id}/"} <= set(paths)


def test_a_body_that_is_too_long_is_refused(client: TestClient) -> None:
    assert create(client, key="k" * application.LARGEST_BODY).status_code == 413


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
