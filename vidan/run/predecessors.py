"""What a run sees of the scenarios that it follows on, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vidan.db.session import Database
from vidan.protocol import followups
from vidan.protocol.followups import Predecessor

PAGE = 500


def parent(database: Database, scenario_id: int) -> Predecessor | None:
    """Return the scenario whose follow-up this one is, as it stands now."""
    with database.begin() as connection:
        return followups.predecessor(connection, scenario_id)


@dataclass(frozen=True, slots=True)
class Members:
    """The members of the group whose callback a scenario is, in the order given; none otherwise.

    Each pass reads them anew, a page at a time.
    """

    database: Database
    scenario_id: int

    def __iter__(self) -> Iterator[Predecessor]:
        """Read the members, a page at a time."""
        after = -1
        while True:
            with self.database.begin() as connection:
                page = followups.members(connection, self.scenario_id, after=after, limit=PAGE)
            for after, member in page:  # noqa: B007  # it is where the next page begins
                yield member
            if len(page) < PAGE:
                return
