from __future__ import annotations

from pathlib import Path

import pytest

from vidan.tasks.signature import Signature


def test_a_local_source_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    later = Signature("detect", source="made.mp4")
    made = Signature("detect", source="first.mp4", then=later).new()
    assert made.source == str(tmp_path / "first.mp4")
    assert [one.source for one in made.then] == [str(tmp_path / "made.mp4")]
    assert Signature("detect", source="rtsp://camera/1").new().source == "rtsp://camera/1"
