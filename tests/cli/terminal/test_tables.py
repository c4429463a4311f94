"""Listings at any width: nothing is cut, and nothing is missing that isn't named."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from vidan.cli.terminal import tables

COLUMNS: dict[str, list[object]] = {
    "ID": [7, 12345],
    "STATUS": ["init_startup_processing", "failed"],
    "QUEUES": [["default", "night"], []],
    "SOURCE": ["/videos/[red]/" + "long" * 20 + ".mp4", "短い.mp4"],
    "NAME": ["a", "north-gate"],
    "ERROR": [None, "no such file on this host, and a word or two about what to do now"],
}
SPARE = ("NAME", "QUEUES")
WRAPPED = ("QUEUES", "SOURCE", "ERROR")


def shown(width: int, spare: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The lines that stand in the terminal, and the columns that don't."""
    table, left_out = tables.fitting(COLUMNS, width, spare=spare)
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines(), list(left_out)


@pytest.mark.parametrize("spare", [(), SPARE])
@pytest.mark.parametrize("width", range(36, 240, 3))
def test_nothing_is_cut_at_any_width(width: int, spare: tuple[str, ...]) -> None:
    lines, left_out = shown(width, spare)
    words = set(" ".join(lines).split())
    for heading, values in COLUMNS.items():
        if heading in left_out:
            continue
        assert heading in words
        if heading not in WRAPPED:
            assert set(map(str, values)) <= words
    assert "…" not in "".join(lines)
    error = str(COLUMNS["ERROR"][1])
    assert words >= set(error.split())  # wrapped at words, where it is
    assert sum(line.count("long") for line in lines) >= 14  # folded, not cut


def test_a_wide_terminal_gets_a_line_each() -> None:
    lines, left_out = shown(260)
    assert (len(lines), left_out) == (4, [])
    assert "default, night" in lines[2]


def test_spare_columns_go_only_as_far_as_needed() -> None:
    both = ["NAME", "QUEUES"]
    left_out = {width: shown(width, SPARE)[1] for width in (102, 101, 90, 89, 74, 73)}
    blocks: list[str] = []
    assert left_out == {102: [], 101: ["NAME"], 90: ["NAME"], 89: both, 74: both, 73: blocks}


def test_blocks_have_every_column() -> None:
    lines, _ = shown(60)
    headings = [line.split()[0] for line in lines if line[:1].strip()]
    assert headings == [*COLUMNS, *COLUMNS]


def test_text_that_wraps_keeps_a_readable_width() -> None:
    for width in range(36, 240, 3):
        lines, _ = shown(width, SPARE)
        assert len(lines) < 30, width
