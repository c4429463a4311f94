"""Field-coded video is refused for decord by what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import videos
from vidan.errors import RejectedTask
from vidan.video.container import open_container
from vidan.video.decoding import Item
from vidan.video.decord import DecordDecoder


def test_a_second_field_is_refused_by_name(tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "a.mkv", 4)
    opened = open_container(str(path))
    items = [Item(packet, None, n, second=n == 1) for n, packet in enumerate(opened.packets())]
    with pytest.raises(RejectedTask, match="field-coded"):
        list(DecordDecoder(opened, str(path), None).pictures(items))
    opened.container.close()
