"""Frames are collected into batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vidan.video import batching
from vidan.video.batching import LIVE_WAIT_S, Batching
from vidan.video.timeline import Entry


@pytest.mark.parametrize(("live", "after"), [(True, 2), (False, 4)])
def test_a_live_batch_goes_with_the_frame_after_its_wait_and_a_files_when_full(
    live: bool, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batching(expected=0, shape=(2, 2), picture=(2, 2), size=4, live=live)
    arrived = 0
    while not batch.ready:
        now = 100 + arrived * 1.1 * LIVE_WAIT_S
        monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: now))  # noqa: B023
        batch.arrive(Entry(arrived, arrived, number=arrived, wanted=True), "lost")
        arrived += 1
    assert arrived == after
    assert list(batch.take(None).indices) == list(range(after))
