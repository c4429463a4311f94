"""A database, settings for it, a client of the interface, and a worker that tests play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.http_interface import client_of
from tests.support.played_worker import PlayedWorker
from vidan.config import Settings
from vidan.db.session import Database


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
