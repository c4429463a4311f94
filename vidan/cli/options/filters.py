"""The options that narrow scenarios down: every command that takes filters has all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from vidan.cli.options.params import (
    LabelOption,
    QueueOption,
    SinceOption,
    SourceOption,
    StatusOption,
    TaskOption,
    unique,
)

if TYPE_CHECKING:
    from vidan.db.session import Connection, Database
    from vidan.services.filters import Filters


@dataclass(frozen=True)
class FilterOptions:
    """The filters as the command line gave them. Raises UsageError for a label given twice.

    A command with a parameter `filters` of this class gets an option for each field.
    """

    status: list[Any] | None = None
    label: list[Any] | None = None
    task: str | None = None
    source: str | None = None
    queue: str | None = None
    since: Any = None

    def __post_init__(self) -> None:
        unique(self.label or [], "--label")

    @property
    def given(self) -> bool:
        """Whether any filter was given."""
        return any(getattr(self, one.name) for one in fields(self))

    def read(self, database: Database) -> Filters:
        """Return the filters as services take them.

        `--since` counts back from now, on the database's clock.
        """
        from vidan.services.filters import Filters

        labels = unique(self.label or [], "--label")
        with database.begin() as connection:
            created = moment(connection, self.since)
        source = None if self.source is None else _stored(self.source)
        return Filters(self.status, labels, self.task, source, self.queue, created)


OPTIONS: Mapping[str, Any] = {
    "status": StatusOption,
    "label": LabelOption,
    "task": TaskOption,
    "source": SourceOption,
    "queue": QueueOption,
    "since": SinceOption,
}
"""The option of each field of FilterOptions."""

NAMES = ", ".join(f"--{name}" for name in OPTIONS)
"""The filters as an error names them."""


def moment(connection: Connection, since: datetime | timedelta | None) -> datetime | None:
    """Return the time that `--since` names, by the database's clock."""
    from vidan.services import events

    return events.moment(connection, since) if isinstance(since, timedelta) else since


def _stored(source: str) -> str:
    """Return a source as scenarios have it: a path is absolute, a pattern stays as it is."""
    from vidan.video.sources import source_for

    return source if source.startswith("*") else source_for(source, check=False)
