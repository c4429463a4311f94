"""Which scenarios a command is about, and what would be lost if it destroyed their work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidan.cli import confirming
from vidan.cli.options.filters import NAMES, FilterOptions
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted
from vidan.domain.bounds import PAGE
from vidan.errors import NotAllowedError, UsageError

if TYPE_CHECKING:
    from vidan.db.session import Connection, Database
    from vidan.services.filters import Filters
    from vidan.services.scenarios import Scenario

COUNTED_AT_ONCE = 10_000
"""Scenarios whose frames are counted in one statement."""


class Choice:
    """The scenarios that a command is about: either ids or filters. Raises UsageError."""

    def __init__(
        self, ids: Sequence[int] | None, filters: FilterOptions, *, all_by_default: bool = False
    ) -> None:
        if ids and filters.given:
            raise UsageError("ids and filters exclude each other", hint=f"give ids, or {NAMES}")
        if not (ids or filters.given or all_by_default):
            raise UsageError("no scenario is named", hint=f"give ids, or filters: {NAMES}")
        self.ids = list(dict.fromkeys(ids or ()))
        self._options = filters
        self._filters: Filters | None = None

    @property
    def by_filter(self) -> bool:
        """Whether filters chose the scenarios; then one that can't be changed is skipped."""
        return not self.ids

    def filters(self, database: Database) -> Filters:
        """Return the filters as services take them; `--since` is the same time at each call."""
        if self._filters is None:
            self._filters = self._options.read(database)
        return self._filters

    def require_match(self, connection: Connection, one: int) -> None:
        """Raise NotAllowedError if filters chose a scenario that no longer matches them."""
        from vidan.services import scenarios

        if self.by_filter and not scenarios.page(
            connection, self._filters or scenarios.Filters(), ids=[one], limit=1
        ):
            raise NotAllowedError(f"scenario {one} no longer matches", hint="list them again")

    def find(self, database: Database) -> list[int]:
        """Return the given ids in their order, or the matching ids, the oldest first."""
        if self.ids:
            return self.ids
        return [scenario.id for scenario in self.scenarios(database)]

    def scenarios(self, database: Database) -> Iterator[Scenario]:
        """Yield the scenarios with the given ids in their order, or those that match, oldest first.

        They are read page by page. Raises NotFoundError for an id without a scenario.
        """
        from vidan.cli import following, listing
        from vidan.services.filters import Order

        if self.by_filter:
            oldest_first = Order(descending=False)
            yield from listing.scenarios(database, self.filters(database), oldest_first, None)
        for start in range(0, len(self.ids), PAGE):
            yield from following.read_all(database, self.ids[start : start + PAGE])


@dataclass(frozen=True)
class Loss:
    """What an action destroys: a question with places for the scenarios and their predictions."""

    question: str
    yes: bool

    def accepted(self, database: Database, out: Output, chosen: Sequence[int]) -> bool:
        """Count what would be lost, and ask."""
        from vidan.services import steering

        ended = frames = 0
        for start in range(0, len(chosen), COUNTED_AT_ONCE):
            with database.begin() as connection:
                part = steering.at_stake(connection, chosen[start : start + COUNTED_AT_ONCE])
            ended, frames = ended + part[0], frames + part[1]
        question = self.question.format(
            counted(ended, "scenario"), f"the predictions of {counted(frames, 'frame')}"
        )
        kept = len(chosen) - ended
        more = f" ({kept} more have not ended and will be skipped)" if kept else ""
        return confirming.agreed(
            out, f"{question} permanently{more}?", self.yes, otherwise="nothing was deleted"
        )
