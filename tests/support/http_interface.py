"""The HTTP interface under test: a client of it, and a fake worker that stores what it reads."""

from __future__ import annotations

from typing import Any

import httpx2
from fastapi.testclient import TestClient

from tests.support.played_worker import PlayedWorker
from vidan.api import application
from vidan.config import Settings
from vidan.db.session import Database
from vidan.detection import catalogue
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario

HERE = "http://127.0.0.1:8000"
TOKEN = "correct-horse"
PICTURES = catalogue.sample_video().read_bytes()


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
