"""How much of a listing is printed, and the scenarios of one, read page by page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from vidan.cli.terminal.output import Output
from vidan.domain.bounds import PAGE
from vidan.errors import UsageError

if TYPE_CHECKING:
    from vidan.db.session import Database
    from vidan.services.filters import Filters, Order
    from vidan.services.scenarios import Scenario

SHOWN = 50
"""Rows that a terminal gets unless the user asks for another number, or for all."""


def most(out: Output, limit: int | None, all: bool) -> int | None:
    """Return how many rows are printed at most, None for all. Raises UsageError."""
    if limit is not None and all:
        raise UsageError("--limit and --all exclude each other", hint="give one of them")
    if limit is not None:
        return limit
    return SHOWN if out.for_people and not all else None


def scenarios(
    database: Database, filters: Filters, order: Order, most: int | None
) -> Iterator[Scenario]:
    """Yield the scenarios that match, each once, and one more than `most`.

    Each page is read in a transaction of its own, so that a slow reader of the output holds none
    open. By id the pages are read one after the other, from the last id of the page before. In any
    other order the ids are sorted first; a scenario that stops matching afterwards is left out.
    """
    wanted = None if most is None else most + 1
    pages = _by_id if order.by == "id" else _sorted
    yield from islice(pages(database, filters, order, wanted), wanted)


def _by_id(
    database: Database, filters: Filters, order: Order, wanted: int | None
) -> Iterator[Scenario]:
    from vidan.services import scenarios

    size = PAGE if wanted is None else min(PAGE, wanted)
    last: int | None = None
    while True:
        with database.begin() as connection:
            page = scenarios.page(
                connection, filters, after_id=last, limit=size, newest_first=order.descending
            )
        yield from page
        if len(page) < size:
            return
        last = page[-1].id


def _sorted(
    database: Database, filters: Filters, order: Order, wanted: int | None
) -> Iterator[Scenario]:
    from vidan.services.filters import sorted_ids
    from vidan.services.scenarios import page

    with database.begin() as connection:
        ids = sorted_ids(connection, filters, order, limit=wanted)
    for start in range(0, len(ids), PAGE):
        part = ids[start : start + PAGE]
        with database.begin() as connection:
            found = {one.id: one for one in page(connection, filters, ids=part, limit=PAGE)}
        yield from (found[one] for one in part if one in found)
