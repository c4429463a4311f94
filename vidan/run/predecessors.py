"""What a run sees of the scenarios before it: its predecessor, the members of its group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vidan.db.session import Database
from vidan.domain.bounds import PAGE
from vidan.protocol import followups
from vidan.protocol.followups import Predecessor


def predecessor(database: Database, scenario_id: int) -> Predecessor | None:
    """Return the scenario that this one follows, as it is now; None if it follows none."""
    with database.begin() as connection:
        return followups.predecessor(connection, scenario_id)


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """The members of the group whose callback a scenario is, in their order; else none.

    Each iteration reads them from the database again, a page at a time.
    """

    database: Database
    scenario_id: int

    def __iter__(self) -> Iterator[Predecessor]:
        """Read the members, a page at a time."""
        after = -1
        while True:
            with self.database.begin() as connection:
                page = followups.members(connection, self.scenario_id, after=after, limit=PAGE)
            for after, member in page:  # noqa: B007  # the next page begins after the last place
                yield member
            if len(page) < PAGE:
                return
