"""Texts that are kept, such as errors, show no password."""

from __future__ import annotations

import pytest

from vidan.protocol import storable
from vidan.protocol.storable import MAX_LINE
from vidan.video.container import shown


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("no route to rtsp://me:secret@camera/1", "no route to rtsp://camera/1"),
        ("no route to rtsp://me:sec@ret@camera/1", "no route to rtsp://camera/1"),
        ("http://camera/1?user=me&password=secret&x=1", "http://camera/1?user=me&password=…&x=1"),
        ("'postgresql://db/vidan?password=secret'", "'postgresql://db/vidan?password=…'"),
        ("me@example.org, a=b", "me@example.org, a=b"),
    ],
)
def test_urls_lose_user_and_password(given: str, kept: str) -> None:
    assert storable.line(given) == kept
    assert storable.block(given, 1_000) == kept


def test_a_line_that_is_cut_within_a_url_shows_no_password() -> None:
    url = "rtsp://me:secret@camera/1"
    line = storable.line("x" * (MAX_LINE - len("rtsp://me:secret")) + url)
    assert line.endswith("xrtsp://camera/1")


def test_a_source_is_shown_without_user_and_password() -> None:
    assert shown("rtsp://me:sec@ret@camera/1") == "rtsp://camera/1"
    assert shown("http://camera?to=me@example.org") == "http://camera?to=me@example.org"
