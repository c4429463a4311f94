"""The examples of schedules, chains and groups, through the installed command line."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.examples import Up
from tests.support.processes import eventually


@pytest.mark.parametrize("broken", [False, True])
def test_a_chain(up: Up, tmp_path: Path, video: Path, broken: bool) -> None:
    with up("chain") as stack:
        given = tmp_path / "broken.mp4" if broken else video
        if broken:
            given.write_bytes(b"no video")
        (first,) = map(int, stack.program(given).split())
        report = stack.ended("report")

        assert report["parent_id"] == first
        assert report["result"]["of"] == first
        assert report["result"]["status"] == ("failed" if broken else "completed")
        assert report["result"]["title"] == ("broken failed" if broken else "clip")
        if not broken:
            assert report["result"]["result"]["people"] > 4
        assert len(stack.json("scenario", "list")) == 2


def test_a_group(up: Up) -> None:
    with up("group") as stack:
        assert stack.program(10, 20, 30).split() == ["1", "2", "3"]
        total = stack.ended("total")
        assert total["result"] == {"members": 3, "total": 1400}


def test_a_schedule(up: Up) -> None:
    with up("schedule") as stack:
        assert eventually(lambda: len(stack.json("schedules", "list")) == 2, 60)
        daily, weekly = stack.json("schedules", "list")
        assert (daily["name"], daily["task"], daily["timezone"]) == (
            "tidy",
            "tidy",
            "Europe/Berlin",
        )
        assert weekly["name"] == "tidy-weekly"
        assert weekly["next_at"].endswith("T12:00:00+00:00")

        paused = stack.json("schedule", "pause", "tidy")
        assert (paused["enabled"], paused["next_at"]) == (False, None)
        assert "paused" in stack.vidan("schedules", "list")
        stack.json("schedules", "resume", "tidy")
        with psycopg.connect(stack.database_url) as connection:  # it was due a day ago
            connection.execute(
                "UPDATE schedules SET next_at = next_at - interval '1 day' WHERE name = 'tidy'"
            )
        done = stack.ended("tidy")
        assert done["result"] == {"kept_days": 30}
        assert done["labels"] == {"schedule": "tidy"}
        shown = stack.json("schedules", "show", "tidy")
        assert shown["last_id"] == done["id"]
        assert done["key"] == f"schedule:tidy:{shown['last_at']}"

        assert "tidy" in stack.refused("schedules", "show", "nightly", code=3)["error"]
