"""Folders and many files: what is taken, all that is bad, and results that keep apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import videos
from tests.support.shell import Shell
from vidan.cli.commands.run.results import folders
from vidan.cli.gathering import in_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, a picture, a hidden one, and two files that are no videos."""
    below = tmp_path / "in" / "b"
    below.mkdir(parents=True)
    videos.encode(tmp_path / "in" / "z.MP4", 5)
    videos.encode(below / "a.mkv", 5)
    videos.encode(below / "c.png", 1, codec="png", options={}, pix_fmt="rgb24", container="image2")
    (below / ".hidden.mp4").write_bytes(b"x")
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / "README").write_text("x")
    return tmp_path / "in"


def test_a_folder_gives_its_videos_and_pictures_sorted(folder: Path) -> None:
    found, left_out = in_folder(folder)
    assert [str(one.relative_to(folder)) for one in found] == ["b/a.mkv", "b/c.png", "z.MP4"]
    assert left_out == {".mp4": 1, ".txt": 1, "": 1}


def test_a_folder_is_queued_and_what_is_left_out_is_told(vidan: Shell, folder: Path) -> None:
    ended = vidan("scenario", "create", "--recursive", folder)
    assert (ended.code, ended.out) == (0, "1\n2\n3\n"), ended.err
    assert "3 other files are left out" in ended.err
    listed = vidan("scenario", "list", "--json").json()
    assert [row["source"] for row in reversed(listed)] == [
        str(folder / name) for name in ("b/a.mkv", "b/c.png", "z.MP4")
    ]


def test_a_folder_needs_recursive_and_some_video(
    vidan: Shell, folder: Path, tmp_path: Path
) -> None:
    refused = vidan("scenario", "create", folder)
    assert refused.code == 10
    assert "--recursive" in refused.err
    (tmp_path / "none").mkdir()
    refused = vidan("scenario", "create", "--recursive", tmp_path / "none")
    assert (refused.code, refused.out) == (10, "")
    assert "no video" in refused.err


def test_all_bad_files_are_named_and_nothing_is_queued(vidan: Shell, folder: Path) -> None:
    for name in ("bad1.mp4", "bad2.avi"):
        (folder / name).write_bytes(b"no video at all" * 50)
    refused = vidan("scenario", "create", "--recursive", folder, "missing.mp4")
    assert (refused.code, refused.out) == (10, "")
    assert "3 of 6 sources" in refused.err
    for name in ("bad1.mp4", "bad2.avi", "missing.mp4"):
        assert name in refused.err
    assert "--skip-bad" in refused.err
    assert vidan("scenario", "list").out == ""


def test_skip_bad_queues_the_others_and_names_the_skipped(vidan: Shell, folder: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"no video at all" * 50)
    ended = vidan("scenario", "create", "--recursive", "--skip-bad", folder, "missing.mp4")
    assert (ended.code, ended.out) == (0, "1\n2\n3\n")
    assert "bad.mp4" in ended.err
    assert "missing.mp4" in ended.err
    assert "2 of 5 sources are skipped" in ended.err
    refused = vidan("scenario", "create", "--skip-bad", "missing.mp4", folder / "bad.mp4")
    assert (refused.code, refused.out) == (10, "")


def test_a_key_is_for_one_source_of_a_folder_too(vidan: Shell, folder: Path) -> None:
    assert vidan("scenario", "create", "--recursive", folder, "--key", "k").code == 2
    assert vidan("scenario", "list").out == ""


@pytest.mark.processes
def test_run_names_all_bad_files_before_it_starts_a_stack(bare: Shell, folder: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"no video at all" * 50)
    refused = bare.run("run", folder, "missing.mp4", "--recursive")
    assert refused.code == 10
    assert "2 of 5 sources" in refused.err
    assert "stack" not in refused.err


def test_results_of_several_sources_keep_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    alone = folders(out, ["/v/a.mp4"])
    assert alone == {"/v/a.mp4": out}
    many = ["/v/a.mp4", "/w/a.mkv", "/w/A.mp4", "/w/b.mp4", "http://x/a.mp4"]
    made = folders(out, many)
    assert list(made) == many
    assert [path.name for path in made.values()] == ["a", "a-2", "A-3", "b", "a-4"]
    assert all(path.is_dir() for path in made.values())
