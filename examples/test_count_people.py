"""A test of count_people.py: the task runs in the test's process, on its own PostgreSQL.

pip install "vidan[local]" pytest
python -m pytest test_count_people.py
"""

from __future__ import annotations

from collections.abc import Iterator

import count_people
import pytest

from vidan.detection import catalogue
from vidan.testing import Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One stack for all tests of this file."""
    with count_people.app.testing() as stack:
        yield stack


@pytest.mark.usefixtures("stack")
def test_people_are_counted_in_each_frame_taken() -> None:
    scenario = count_people.count_people.delay(source=catalogue.sample_video(), every=50)

    ended = scenario.wait()

    assert ended.status == "completed"
    frames = list(scenario.predictions())
    assert [one.frame for one in frames] == [0, 50, 100, 150]
    found = [detection for one in frames for detection in one.detections]
    assert ended.result == {"people": sum(one.score >= 0.5 for one in found)}


def test_a_file_that_is_no_video_fails_without_a_retry(stack: Stack, tmp_path) -> None:
    (tmp_path / "note.mp4").write_text("no video")
    scenario = count_people.count_people.apply(source=tmp_path / "note.mp4", check=False)

    stack.run_due()

    assert scenario.look().status == "failed"
    assert "note.mp4" in scenario.look().error
