"""Which scenarios a command is about, and what would be lost if it destroyed their work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vidan.cli import confirming
from vidan.cli.options.params import unique
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted
from vidan.errors import NotAllowedError, UsageError

if TYPE_CHECKING:
    from vidan.db.session import Connection, Database
    from vidan.domain.status import Status
    from vidan.services.filters import Filters

COUNTED_AT_ONCE = 10_000
"""Scenarios whose frames are counted in one statement."""


@dataclass(frozen=True)
class Choice:
    """The scenarios that a command is about: either ids or filters."""

    ids: Sequence[int]
    status: Sequence[Status] | None
    labels: dict[str, str]
    task: str | None

    @classmethod
    def of(
        cls,
        ids: list[int] | None,
        status: list[Any] | None,
        label: list[Any] | None,
        task: str | None,
    ) -> Choice:
        """Make a choice from the command line. Raises UsageError."""
        filtered = bool(status or label or task)
        if ids and filtered:
            raise UsageError(
                "ids and filters exclude each other", hint="give ids, or --status, --label, --task"
            )
        if not (ids or filtered):
            raise UsageError(
                "no scenario is named", hint="give ids, or filters: --status, --label, --task"
            )
        return cls(list(dict.fromkeys(ids or ())), status, unique(label or [], "--label"), task)

    @property
    def by_filter(self) -> bool:
        """Whether filters chose the scenarios; then one that can't be changed is skipped."""
        return not self.ids

    @property
    def filters(self) -> Filters:
        """The filters, as services take them."""
        from vidan.services.filters import Filters

        return Filters(self.status, self.labels, self.task)

    def require_match(self, connection: Connection, one: int) -> None:
        """Raise NotAllowedError if filters chose a scenario that no longer matches them."""
        from vidan.services import scenarios

        if self.by_filter and not scenarios.page(connection, self.filters, ids=[one], limit=1):
            raise NotAllowedError(f"scenario {one} no longer matches", hint="list them again")

    def find(self, database: Database) -> list[int]:
        """Return the given ids in their order, or the matching ids, the oldest first."""
        return list(self.ids) if self.ids else list(self._pages(database))

    def _pages(self, database: Database) -> Iterator[int]:
        from vidan.cli import listing
        from vidan.services.filters import Order

        oldest_first = Order(descending=False)
        for scenario in listing.scenarios(database, self.filters, oldest_first, None):
            yield scenario.id


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
