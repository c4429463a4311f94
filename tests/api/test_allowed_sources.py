"""The files that a request may name: only those below the roots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.http_interface import PICTURES, client_of, create
from vidan.config import Settings
from vidan.db.session import Database


def test_without_roots_sources_are_refused(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "street.mp4").write_bytes(PICTURES)

    answer = create(client, source=str(tmp_path / "street.mp4"))

    assert answer.status_code == 422
    assert "VIDAN_SOURCE_ROOTS" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{outside}/secret.mp4", "not below"),
        ("{outside}/nothing-there.mp4", "not below"),
        ("{root}/../outside/secret.mp4", "not below"),
        ("../outside/secret.mp4", "not below"),
        ("{root}/link.mp4", "not below"),
        ("{root}/folder-link/secret.mp4", "not below"),
        ("{root}-twin/video.mp4", "not below"),
        ("{root}/loop", "not below"),
        ("{root}", "not below"),
        ("", "not below"),
        ("a\0b", "not below"),
        ("rtsp://camera/1", "not a URL"),
        ("http://camera/1.mp4", "not a URL"),
        ("file://{root}/video.mp4", "not a URL"),
        ("concat:{root}/video.mp4", "does not exist"),
        ("missing.mp4", "does not exist"),
        ("folder", "is not a file"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "text.mp4"),
        ("x" * 300, "can't be read"),
    ],
)
def test_sources_come_from_below_the_roots_only(
    settings: Settings, database: Database, tmp_path: Path, source: str, problem: str
) -> None:
    root, outside, twin = (tmp_path / name for name in ("root", "outside", "root-twin"))
    for folder in (root, outside, twin, root / "folder"):
        folder.mkdir()
    for file in (outside / "secret.mp4", root / "video.mp4", twin / "video.mp4"):
        file.write_bytes(PICTURES)
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("these are no pictures")
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder-link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    client = client_of(replace(settings, source_roots=(root,)), database)

    answer = create(client, source=source.format(root=root, outside=outside))

    assert answer.status_code == 422, answer.text
    assert problem in answer.json()["detail"]
    assert client.get("/scenario/1/").status_code == 404


def test_a_link_inside_a_root_is_stored_as_the_file_it_leads_to(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    real, second = tmp_path / "real", tmp_path / "second"
    real.mkdir()
    second.mkdir()
    (tmp_path / "root").symlink_to(real)
    (real / "video.mp4").write_bytes(PICTURES)
    (real / "link.mp4").symlink_to("video.mp4")
    client = client_of(replace(settings, source_roots=(second, tmp_path / "root")), database)

    assert create(client, source="link.mp4").status_code == 200

    shown = client.get("/scenario/1/?detail=true").json()
    assert shown["source"] == str(real.resolve() / "video.mp4")
