"""Which requests pass: those with the token; without one, those from this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.http_interface import HERE, TOKEN, client_of
from vidan import api
from vidan.config import Settings
from vidan.db.session import Database
from vidan.errors import UsageError
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios


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


@pytest.mark.parametrize("token", ["two words", "tökén", "line\nbreak"])
def test_a_token_that_no_header_can_carry(settings: Settings, token: str) -> None:
    with pytest.raises(UsageError, match="VIDAN_API_TOKEN"):
        api.serve(replace(settings, api_token=token), "127.0.0.1", 0)
