"""Frames of a video far larger than the model's input are scaled down by the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import videos
from tests.support.processes import eventually
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.detection import Detection
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.run.run import Run
from vidan.services import predictions, scenarios
from vidan.services.scenarios import Scenario
from vidan.tasks.app import Vidan
from vidan.worker.worker import Worker

app = Vidan()
HERE = f"{__name__}:half"


class Left:
    """Finds the left half of every frame; asks for 24 x 32 pixels, or for another size."""

    labels = ("left",)
    batch_size = 4

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        box = (0.0, 0.0, width / 2, float(height))
        return [[Detection(box, "left", 0.9)] for _ in pixels]

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size


def half(size: tuple[int, int] = (24, 32)) -> Left:
    return Left(size)


def nothing() -> Left:
    return Left((0, 32))


@app.task(name="shapes")
def shapes(
    run: Run, model: str = HERE, full_size: bool = False, size: str | None = None
) -> list[object]:
    """Return the pixels' height and width, their scale, and where the box ends in them."""
    wanted = None if size is None else (int(size.split("x")[0]), int(size.split("x")[1]))
    found: list[object] = []
    for batch, detections in run.detect(model=model, full_size=full_size, size=wanted):
        x, y = batch.scale
        right, bottom = detections[0][0].box[2] * x, detections[0][0].box[3] * y
        found = [*batch.pixels.shape[1:3], x, y, right, bottom]
    return found


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[Worker]:
    settings = Settings(home=tmp_path, database_url=database_url)
    made = Worker(settings, WorkerOptions("w@test"), app.tasks)
    made.run_once()
    yield made
    made.leave()
    made._slots.close()


def run_to_its_end(worker: Worker, database: Database, new: NewScenario) -> Scenario:
    with database.begin() as connection:
        scenario_id = creation.create(connection, new).id

    def ended() -> bool:
        worker.run_once()
        with database.begin() as connection:
            return scenarios.get(connection, scenario_id).ended_at is not None

    assert eventually(ended, 30)
    with database.begin() as connection:
        return scenarios.get(connection, scenario_id)


@pytest.mark.parametrize(
    ("width", "params", "expected"),
    [
        (64, {}, [24, 32, 0.5, 0.5, 16.0, 24.0]),
        (64, {"full_size": True}, [48, 64, 1.0, 1.0, 32.0, 48.0]),
        (40, {}, [30, 40, 1.0, 1.0, 20.0, 30.0]),  # 1.6 times the pixels: not worth it
        (64, {"size": "40x56"}, [48, 64, 1.0, 1.0, 32.0, 48.0]),
        (64, {"size": "100x200"}, [48, 64, 1.0, 1.0, 32.0, 48.0]),
    ],
    ids=["scaled", "full size", "hardly larger", "input hardly smaller", "input larger"],
)
def test_frames_are_scaled_where_that_is_worth_it(
    width: int,
    params: dict[str, object],
    expected: list[object],
    worker: Worker,
    database: Database,
    tmp_path: Path,
) -> None:
    path = videos.encode(tmp_path / "a.mp4", 10, width=width, height=width * 3 // 4)
    ended = run_to_its_end(worker, database, NewScenario(str(path), "shapes", params))
    assert (ended.status, ended.result) == (Status.COMPLETED, expected), ended.error
    with database.begin() as connection:
        stored = predictions.read_after(connection, ended.id, -1)
    boxes = {one.detections[0].box for one in stored}
    assert boxes == {(0.0, 0.0, width / 2, float(width * 3 // 4))}  # in pixels of the source


def test_a_size_that_is_none_is_refused(worker: Worker, database: Database, tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "a.mp4", 10)
    new = NewScenario(str(path), "shapes", {"model": f"{__name__}:nothing"})
    ended = run_to_its_end(worker, database, new)
    assert (ended.status, ended.attempts) == (Status.FAILED, 0)
    assert "0 x 32" in str(ended.error)
