"""How a listing looks in a terminal: a table if it fits, else a block of lines per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from vidan.cli.terminal.text import COLOURS, for_people

_MAY_WRAP = frozenset(
    "ERROR FINDING LICENCE ORIGIN PARAMS QUEUES REASON REMEDY SCENARIOS SIZE SOURCE SUMMARY".split()
)
"""Headings of the columns whose text may be broken into several lines."""

_COLOURED = frozenset("STATUS STATE FROM TO".split())
"""Headings of the columns of statuses and states, which have colours."""

_LEAST = 20
"""Narrowest that a column which may wrap gets, in characters, unless its text is shorter."""

_GAP = 2
"""Space between two columns, in characters."""


def fitting(
    columns: Mapping[str, Sequence[object]], width: int, *, spare: Sequence[str] = ()
) -> tuple[Table, Sequence[str]]:
    """Lay out columns (heading → one value per row) so that no text is cut.

    Returns the layout and the headings left out: a table of all columns if it fits the width; else
    a table without the first `spare` columns, as few as possible; else, with all columns, a block
    for each row with a line for each of its values.
    """
    texts = {heading: [_cell(value) for value in values] for heading, values in columns.items()}
    numbers = {
        heading
        for heading, values in columns.items()
        if all(isinstance(value, int | float) for value in values)
    }
    for count in range(len(spare) + 1):
        left_out = spare[:count]
        shown = {heading: cells for heading, cells in texts.items() if heading not in left_out}
        if _least_width(shown) <= width:
            return _table(shown, numbers), left_out
    return _blocks(texts), ()


def _least_width(columns: Mapping[str, Sequence[str]]) -> int:
    wanted = {heading: max(map(cell_len, [heading, *cells])) for heading, cells in columns.items()}
    least = (min(w, _LEAST) if heading in _MAY_WRAP else w for heading, w in wanted.items())
    return sum(least) + _GAP * (len(columns) - 1)


def _table(columns: Mapping[str, Sequence[str]], numbers: set[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in columns:
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            no_wrap=heading not in _MAY_WRAP,
            overflow="fold",
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(cell, columns, row))
    return table


def _blocks(columns: Mapping[str, Sequence[str]]) -> Table:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for place, row in enumerate(zip(*columns.values(), strict=True)):
        if place:
            grid.add_row()
        for heading, text in zip(columns, row, strict=True):
            grid.add_row(heading, cell(heading, text))
    return grid


def cell(heading: str, text: str) -> Text:
    """Return the text of a table's cell; statuses and states have colours.

    It is a Text, so that `[red]` in the name of a source is not taken for markup.
    """
    return Text(text, style=COLOURS.get(text, "") if heading in _COLOURED else "")


def _cell(value: object) -> str:
    """Return a value as text for people; a list has spaces at which it can be wrapped."""
    if value and isinstance(value, list | tuple):
        return ", ".join(map(for_people, value))
    return for_people(value)
