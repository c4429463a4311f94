"""Predictions as one JSON document: complete, in order, and broken off by an error."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

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
    read = predictions.read_rows

    def read_and_store(*arguments: Any, **options: Any) -> predictions.Rows:
        page = read(*arguments, **options)
        worker.store(range(worker.checkpoint, worker.checkpoint + 2))
        return page

    monkeypatch.setattr(predictions, "read_rows", read_and_store)

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


def test_an_answer_breaks_off_if_its_rows_go_between_two_statements(
    database: Database, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PAGE", 2)
    queue_and_store(worker, range(6))
    worker.end(Status.COMPLETED)
    pieces = streaming.document(1, streaming.pages(database, 1), detail=False)
    next(pieces)
    week = predictions._week

    def week_and_delete(*arguments: Any) -> Any:
        found = week(*arguments)
        with database.begin() as connection:
            steering.delete(connection, 1)
        return found

    monkeypatch.setattr(predictions, "_week", week_and_delete)
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


numbers = st.floats(width=32)
LABELS = ["person", '"]}\nкот', "\ud800"]


@st.composite
def stored(draw: st.DrawFn) -> predictions.Rows:
    """Rows as the database gives them: any 32-bit numbers, with track ids or without."""
    rows = []
    for frame in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 3))
        of = partial(st.lists, min_size=count, max_size=count)
        labels = draw(of(st.integers(0, len(LABELS) - 1)))
        scores = draw(of(numbers))
        boxes = draw(st.lists(numbers, min_size=4 * count, max_size=4 * count))
        tracks = draw(st.none() | of(st.none() | st.integers(-9, 9)))
        rows.append((frame, labels, scores, boxes, tracks, frame * 40, None))
    return predictions.Rows(rows, LABELS, len(rows) - 1)


def modelled(page: predictions.Rows, *, detail: bool) -> list[dict[str, Any]]:
    """What the answer has to say about a page, object by object."""

    def rounded(value: float, digits: int) -> float | None:
        return round(value, digits) if math.isfinite(value) else None

    items = []
    for frame, labels, scores, boxes, tracks, time_ms, _ in page.rows:
        for place, label in enumerate(labels):
            item = {"class": LABELS[label], "confidence": rounded(scores[place], 4)}
            if detail:
                box = [rounded(edge, 2) for edge in boxes[4 * place : 4 * place + 4]]
                track = tracks[place] if tracks else None
                item |= {"frame": frame, "time_ms": time_ms, "box": box, "track_id": track}
            items.append(item)
    return items


@pytest.mark.parametrize("detail", [False, True])
@given(pages=st.lists(stored(), max_size=3))
def test_rows_become_the_json_of_their_detections(
    pages: list[predictions.Rows], detail: bool
) -> None:
    items = [item for page in pages for item in modelled(page, detail=detail)]
    whole = {"scenario_id": 7, "predictions": {"predictions": items}}
    if not detail:
        pages = [replace(page, rows=[row[:3] for row in page.rows]) for page in pages]

    assert b"".join(streaming.document(7, pages, detail=detail)).decode() == json.dumps(whole)


@pytest.mark.parametrize(
    "row",
    [
        (0, [0, 0], [0.5], [1.0] * 8, None, 0, None),  # fewer scores than labels
        (0, [0], [0.5], [1.0] * 3, None, 0, None),  # a box of three numbers
        (0, [0], [0.5], [1.0] * 4, [1, 2], 0, None),  # more track ids than labels
        (0, [1], [0.5], [1.0] * 4, None, 0, None),  # a label without a name
        (0, [0], [None], [1.0] * 4, None, 0, None),  # no score
    ],
)
def test_rows_that_make_no_sense_break_the_answer_off(row: tuple[Any, ...]) -> None:
    page = predictions.Rows([row], ["person"], 0)

    with pytest.raises((ValueError, IndexError, TypeError)):
        list(streaming.document(7, [page], detail=True))


def test_the_brief_answer_reads_no_more_than_it_gives(
    database: Database, worker: PlayedWorker
) -> None:
    scenario_id = queue_and_store(worker, range(3), found=2)

    with database.begin() as connection:
        page = predictions.read_rows(connection, scenario_id, -1, limit=10, brief=True)
        detections = predictions.read_after(connection, scenario_id, -1)

    assert [row[:2] for row in page.rows] == [(frame, [0, 1]) for frame in range(3)]
    assert [tuple(row[2]) for row in page.rows] == [
        tuple(one.score for one in frame.detections) for frame in detections
    ]
    assert {len(row) for row in page.rows} == {3}
    assert page.last == 2
