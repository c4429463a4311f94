from __future__ import annotations

from pathlib import Path

import pytest

from vidan.errors import InputRejected
from vidan.signature import Signature


def test_a_local_source_is_absolute_and_one_that_follows_may_be_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    later = Signature("detect", source="made.mp4")
    made = Signature("detect", source="nope.mp4", then=later).new()
    assert made.source == str(tmp_path / "nope.mp4")
    assert [one.source for one in made.then] == [str(tmp_path / "made.mp4")]
    assert Signature("detect", source="rtsp://camera/1").new(check=True).source == "rtsp://camera/1"
    with pytest.raises(InputRejected, match="no such file"):
        Signature("detect", source="nope.mp4").new(check=True)
