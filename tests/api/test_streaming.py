"""Predictions as one JSON document: complete, in order, and broken off by an error."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.http_interface import create, found_in, queue_and_store
from tests.support.played_worker import PlayedWorker
from vidan.api import streaming
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import NotFoundError
from vidan.protocol import commits, creation
from vidan.protocol.creation import NewScenario
from vidan.services import predictions, steering


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


@pytest.mark.parametrize(("frames", "whole"), [(1, True), (499, True), (501, False)])
def test_a_page_is_answered_in_one_piece(
    client: TestClient, worker: PlayedWorker, frames: int, whole: bool
) -> None:
    queue_and_store(worker, range(frames))
    answer = client.get("/prediction/1/")
    assert ("content-length" in answer.headers) == whole
    assert len(found_in(answer)) == frames
