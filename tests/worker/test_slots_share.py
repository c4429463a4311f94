"""Scenarios of one worker share a model and its batches, and each gets what it would have alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.cluster import SAMPLE
from tests.support.processes import eventually
from tests.support.videos import plain
from vidan.config import Settings
from vidan.db.session import Database
from vidan.detection import cache as detectors
from vidan.detection import catalogue
from vidan.detection.building import build_detector
from vidan.detection.cache import DetectorCache
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import DeviceLost, RejectedTask, VidanError
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.run.run import Run
from vidan.services import predictions, scenarios
from vidan.tasks.app import Vidan
from vidan.worker.worker import Worker

Pixels = NDArray[np.uint8]
app = Vidan()
HERE = f"{__name__}:fussy"
BUILT: list[str] = []


class Fussy:
    """Finds the mean brightness; fails at frames that are all black, and hates no others."""

    labels = ("mean",)
    batch_size = 16

    def detect(self, pixels: Pixels, width: int, height: int) -> list[list[Detection]]:
        means = [float(frame.mean()) / 255 for frame in pixels]
        if min(means) < 0.1:
            raise RejectedTask("too dark to see anything")
        box = (0.0, 0.0, float(width), float(height))
        return [[Detection(box, "mean", mean)] for mean in means]


def fussy() -> Fussy:
    BUILT.append("fussy")
    return Fussy()


@app.task(name="watch")
def watch(run: Run) -> int:
    return sum(len(batch.indices) for batch, _ in run.detect(model=HERE, batch_size=2))


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[Worker]:
    settings = Settings(home=tmp_path, database_url=database_url)
    made = Worker(settings, WorkerOptions("w@test", slots=4), app.tasks)
    made.run_once()
    yield made
    made.leave()
    made._slots.close()


def test_one_bad_scenario_fails_alone(worker: Worker, database: Database, tmp_path: Path) -> None:
    """All four wait for the same detector, two of them in another size."""
    BUILT.clear()
    kinds = [(0, 64), (100, 64), (200, 32), (150, 64)]
    new = [
        NewScenario(str(plain(tmp_path / f"{n}.mp4", *kind)), "watch")
        for n, kind in enumerate(kinds)
    ]
    with database.begin() as connection:
        ids = [one.id for one in creation.create_many(connection, new)]

    def ended() -> bool:
        worker.run_once()
        with database.begin() as connection:
            return all(scenarios.get(connection, one).ended_at is not None for one in ids)

    assert eventually(ended, 60)
    with database.begin() as connection:
        found = [scenarios.get(connection, one) for one in ids]
        stored = [predictions.read_after(connection, one, -1) for one in ids]
    assert [one.status for one in found] == [Status.FAILED, *[Status.COMPLETED] * 3]
    assert "too dark" in str(found[0].error)
    assert [one.result for one in found[1:]] == [24] * 3
    for (brightness, width), frames in list(zip(kinds, stored, strict=True))[1:]:
        assert [one.frame for one in frames] == list(range(24))
        for one in frames:
            (detection,) = one.detections
            assert detection.box == (0.0, 0.0, float(width), 48.0)
            assert abs(detection.score - brightness / 255) < 0.03
    assert BUILT == ["fussy"]  # one model for all slots


# --- the detectors of a worker


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which models were built."""
    names: list[str] = []

    def noting(**options: object) -> Detector:
        names.append(str(options["model"]))
        return build_detector(HERE, device="cpu")

    monkeypatch.setattr(detectors, "build_detector", noting)
    return names


def test_a_model_is_once_in_memory_for_all_slots(built: list[str]) -> None:
    cache = DetectorCache()
    seats = [cache.get(lambda _: nullcontext(), model="a", size=None) for _ in range(8)]
    assert built == ["a"]
    assert len({id(seat.batcher) for seat in seats}) == 1


def test_one_that_loads_holds_up_none_that_is_loaded(
    built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DetectorCache()
    cache.get(lambda _: nullcontext(), model="a")
    begun, go_on = threading.Event(), threading.Event()
    build = vars(detectors)["build_detector"]

    def slowly(**options: object) -> Detector:
        begun.set()
        assert go_on.wait(20)
        made: Detector = build(**options)
        return made

    monkeypatch.setattr(detectors, "build_detector", slowly)
    slow = [
        threading.Thread(target=cache.get, args=(lambda _: nullcontext(),), kwargs={"model": "b"})
        for _ in range(2)
    ]
    for one in slow:
        one.start()
    assert begun.wait(20)
    cache.get(lambda _: nullcontext(), model="a")
    assert built == ["a"]
    go_on.set()
    for one in slow:
        one.join()
    assert built == ["a", "b"]


def test_a_gpu_that_is_not_there_is_told_before_the_run_fails() -> None:
    told: list[DeviceLost] = []
    cache = DetectorCache("cuda:99", on_lost=told.append)
    with pytest.raises(DeviceLost, match="no such GPU"):
        cache.get(lambda _: nullcontext())
    assert len(told) == 1


def test_a_model_that_makes_room_is_used_to_the_end(built: list[str]) -> None:
    cache = DetectorCache(keep=1)
    pixels = np.full((1, 2, 2, 3), 128, np.uint8)
    before = cache.get(lambda _: nullcontext(), model="a")
    before.submit(pixels, 2, 2).result()
    cache.get(lambda _: nullcontext(), model="b")
    assert len(before.submit(pixels, 2, 2).result()) == 1
    after = cache.get(lambda _: nullcontext(), model="a")
    assert built == ["a", "b", "a"]
    assert after.batcher is not before.batcher
    before.close()
    assert eventually(lambda: not before.batcher._lanes)


@pytest.mark.parametrize("how", ["moved there", "written over"])
def test_weights_that_were_replaced_take_the_place_of_the_old_ones(
    built: list[str], tmp_path: Path, how: str
) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"first")
    cache = DetectorCache()
    pixels = np.full((1, 2, 2, 3), 128, np.uint8)
    before = cache.get(lambda _: nullcontext(), model="a", weights=str(weights))
    if how == "written over":
        weights.write_bytes(b"trained for longer")
    else:
        new = tmp_path / "new.pt"
        new.write_bytes(b"other")
        new.replace(weights)
    after = [cache.get(lambda _: nullcontext(), model="a", weights=str(weights)) for _ in range(2)]
    assert built == ["a", "a"]
    assert before.batcher not in [seat.batcher for seat in after]
    assert len(cache._batchers) == 1
    assert len(before.submit(pixels, 2, 2).result()) == 1  # who runs goes on with what it had


def test_weights_that_are_just_being_replaced_are_tried_again(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"first")
    cache = DetectorCache()
    cache.get(lambda _: nullcontext(), model="a", weights=str(weights))

    def refuse(*_: object, **__: object) -> None:
        raise RejectedTask("the weights do not fit")

    with monkeypatch.context() as patched:
        patched.setattr("vidan.detection.cache.build_detector", refuse)
        weights.write_bytes(b"the first half of")
        with pytest.raises(VidanError, match="was replaced: the weights do not fit") as refused:
            cache.get(lambda _: nullcontext(), model="a", weights=str(weights))
        assert not isinstance(refused.value, RejectedTask)
        with pytest.raises(RejectedTask):
            cache.get(lambda _: nullcontext(), model="b", weights=str(weights))
    cache.get(lambda _: nullcontext(), model="a", weights=str(weights))
    assert built == ["a", "a"]


def test_weights_that_are_not_there_are_told_by_who_reads_them() -> None:
    for weights in ("/nonexistent/best.pt", "a\0b"):
        with pytest.raises(VidanError):
            DetectorCache().get(lambda _: nullcontext(), model="nanodet-g", weights=weights)


def test_the_network_finds_the_same_in_shared_batches_and_lanes() -> None:
    """Eight scenarios at once, each a frame of its own, against each frame alone."""
    with av.open(str(SAMPLE)) as container:
        pictures = [frame for n, frame in enumerate(container.decode(video=0)) if n % 25 == 0]
    frames = [
        picture.reformat(544, 416, "rgb24").to_ndarray()[None].astype(np.uint8)
        for picture in pictures
    ]
    assert len(frames) == 8
    alone = build_detector(threads=2)
    wanted = [alone.detect(one, 768, 576)[0] for one in frames]
    cache = DetectorCache(threads=2)
    found: dict[int, list[list[Detection]]] = {}

    def run(number: int) -> None:
        seat = cache.get(lambda _: nullcontext(), model=catalogue.DEFAULT_MODEL)
        pending = [seat.submit(frames[number], 768, 576) for _ in range(2)]
        found[number] = [one.result()[0] for one in pending]
        seat.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, want in enumerate(wanted):
        for got in found[number]:
            assert [one.label for one in got] == [one.label for one in want]
            for one, other in zip(got, want, strict=True):
                assert abs(one.score - other.score) < 1e-3
                assert np.abs(np.subtract(one.box, other.box)).max() < 0.5
