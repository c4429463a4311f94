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
    database: Database, filters: Filters, order: Order, most: int | None, *, told: bool = False
) -> Iterator[Scenario]:
    """Yield the scenarios that match, each once, and one more than `most`.

    `told`: with their places in their queues, and the times that they waited and ran.

    Each page is read in a transaction of its own, so that a slow reader of the output holds none
    open. By id the pages are read one after the other, from the last id of the page before. In any
    other order the ids are sorted first; a scenario that stops matching afterwards is left out.
    """
    wanted = None if most is None else most + 1
    pages = _by_id if order.by == "id" else _sorted
    for page in pages(database, filters, order, wanted):
        yield from islice(_told(database, page) if told else page, wanted)
        wanted = None if wanted is None else max(0, wanted - len(page))


def _told(database: Database, page: list[Scenario]) -> list[Scenario]:
    from vidan.services import queueing

    with database.begin() as connection:
        return queueing.told(connection, page)


def _by_id(
    database: Database, filters: Filters, order: Order, wanted: int | None
) -> Iterator[list[Scenario]]:
    from vidan.services import scenarios

    size = PAGE if wanted is None else min(PAGE, wanted)
    last: int | None = None
    while True:
        with database.begin() as connection:
            page = scenarios.page(
                connection, filters, after_id=last, limit=size, newest_first=order.descending
            )
        yield page
        if len(page) < size:
            return
        last = page[-1].id


def _sorted(
    database: Database, filters: Filters, order: Order, wanted: int | None
) -> Iterator[list[Scenario]]:
    from vidan.services.filters import sorted_ids
    from vidan.services.scenarios import page

    with database.begin() as connection:
        ids = sorted_ids(connection, filters, order, limit=wanted)
    for start in range(0, len(ids), PAGE):
        part = ids[start : start + PAGE]
        with database.begin() as connection:
            found = {one.id: one for one in page(connection, filters, ids=part, limit=PAGE)}
        yield [found[one] for one in part if one in found]
