"""The routes: creating, reading and changing a scenario, as the first system's clients do."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.http_interface import PICTURES, client_of, create, queue_and_store
from tests.support.played_worker import PlayedWorker
from vidan.api import routes
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import commits, creation, tasks
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios


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


def test_a_key_that_belongs_to_other_work_is_a_conflict(
    client: TestClient, worker: PlayedWorker
) -> None:
    def post(every: int, **more: object) -> tuple[int, Any]:
        body = {"status": "init_startup", "params": {"every": every}, "key": "k", **more}
        answer = client.post("/scenario/", json=body)
        return answer.status_code, answer.json()

    assert post(2) == post(2) == (200, {"scenario_id": 1})
    code, problem = post(3)
    assert code == 409
    assert "differs in param every" in problem["detail"]
    assert post(3, key_reuse=True) == (200, {"scenario_id": 1})

    assert client.post("/scenario/1/", json={"status": "inactive"}).status_code == 200
    assert post(3, retry_failed=True)[0] == 409
    assert client.get("/scenario/1/").json()["status"] == "inactive"
    assert post(2, retry_failed=True) == (200, {"scenario_id": 1})
    assert client.get("/scenario/1/").json()["status"] == "init_startup"
    assert (
        client.post("/scenario/", json={"status": "inactive", "key_reuse": True}).status_code == 422
    )


def test_both_reasons_of_a_conflict_are_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    create_said = paths["/scenario/"]["post"]["responses"]["409"]["description"]
    change_said = paths["/scenario/{scenario_id}/"]["post"]["responses"]["409"]["description"]
    assert "key belongs to other work" in create_said
    assert "status" in change_said


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


CHAIN = {"anyOf": [{"type": "array", "items": {"$ref": "#/properties/x"}}] * 2}
"""A schema with which each level of nesting doubles the work."""


@pytest.mark.parametrize(
    "body",
    [
        {"params": {"labels": [{"a": number} for number in range(2_000)]}},
        {"params": {"labels": ["person"] * 90_000}},
        {"params": {"model": "x" * 900_000}},
        {"params": {f"k{number}": 1 for number in range(50_000)}},
        {"source": "a/" * 400_000},
        {"params": {"weights": "a/" * 400_000}},
        {"task": "x" * 900_000},
        {"task": "x" * 900},
        {"task": "doubling", "params": {"x": json.loads("[" * 40 + "1" + "]" * 40)}},
        {"task": "doubling", "params": {"x": json.loads("[" * 500 + "1" + "]" * 500)}},
        {f"k{number}": 1 for number in range(50_000)},
    ],
    ids=lambda body: str(body)[:40],
)
def test_the_checks_of_a_body_are_bounded_in_time(
    settings: Settings, database: Database, tmp_path: Path, body: dict[str, Any]
) -> None:
    doubling = tasks.TaskSpec("doubling", {"type": "object", "properties": {"x": CHAIN}}, False)
    with database.begin() as connection:
        tasks.publish(connection, [doubling])
    client = client_of(replace(settings, source_roots=(tmp_path,)), database)

    began = time.process_time()
    answer = create(client, **body)

    assert time.process_time() - began < 2 * routes.CHECK_SECONDS
    assert answer.status_code == 422
    assert 0 < len(answer.json()["detail"]) < 5_000
    with database.begin() as connection:
        assert scenarios.find(connection) == []


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
