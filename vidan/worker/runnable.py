"""Which scenarios of its tasks a worker runs: those whose definition its own version can take."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from vidan.db.session import Database
from vidan.protocol import definitions, waiting
from vidan.protocol.definitions import UNCHECKED
from vidan.tasks.task import Task

log = logging.getLogger("vidan.worker")

LOOK_SECONDS = 1.0
"""How long, in seconds, claims rely on what was found waiting; sweeps look each time."""


class Runnable:
    """The definitions that this worker takes of each task, as of its last look at the queues.

    A version that governs a task takes all definitions: what it refuses fails by name. An older one
    takes those that its own definition accepts wholly, which is decided once for each.
    """

    def __init__(self, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._specs = {name: task.spec for name, task in tasks.items()}
        self._decided: dict[tuple[str, str], bool] = {
            (name, spec.definition): True for name, spec in self._specs.items()
        }
        self._seen_at = float("-inf")
        self.definitions: dict[str, Collection[str]] = {
            name: (spec.definition,) for name, spec in self._specs.items()
        }
        self.capped: set[str] = {name for name, spec in self._specs.items() if spec.capped}

    @property
    def fresh(self) -> bool:
        """Whether the last look is recent enough for a claim that a message asked for."""
        return time.monotonic() - self._seen_at < LOOK_SECONDS

    def look(self, database: Database, queues: Collection[str], versions: Collection[int]) -> bool:
        """Look what waits. Returns whether anything is due that this worker, of `versions`, runs.

        Raises DatabaseUnavailable.
        """
        with database.autocommit() as connection:
            seen = waiting.look(connection, list(queues), list(self._specs))
            missing = self._undecided(seen, versions)
            written = waiting.schemas(connection, missing) if missing else {}
        for pair in missing:
            self._decide(*pair, written.get(pair))
        self._seen_at = time.monotonic()
        self.capped = {one.task for one in seen if one.capped}
        due = False
        for one in seen:
            taken = {each for each in one.due if self._takes(one, each, versions)}
            due = due or bool(taken)
            self.definitions[one.task] = taken | {self._specs[one.task].definition}
        return due

    def _undecided(
        self, seen: Collection[waiting.Seen], versions: Collection[int]
    ) -> list[tuple[str, str]]:
        return [
            (one.task, each)
            for one in seen
            for each in one.due
            if not _governs(one, versions)
            and each != UNCHECKED
            and (one.task, each) not in self._decided
        ]

    def _decide(self, task: str, digest: str, written: str | None) -> None:
        """Compare a definition with this worker's own, which decides for as long as it runs."""
        if written is None:
            return  # its version has not published it yet: asked again at the next look
        spec = self._specs[task]
        try:
            schema, needs_source = json.loads(written)
        except (ValueError, RecursionError):
            schema, needs_source = None, None
        can = needs_source == spec.needs_source and definitions.accepts(spec.params_schema, schema)
        self._decided[task, digest] = can
        if not can:
            log.warning(
                "task %s: scenarios that another version has checked (definition %s) are left to"
                " others, since this worker's version may refuse their params",
                task,
                digest,
            )

    def _takes(self, seen: waiting.Seen, digest: str, versions: Collection[int]) -> bool:
        if digest == UNCHECKED or _governs(seen, versions):
            return True
        return self._decided.get((seen.task, digest), False)


def _governs(seen: waiting.Seen, versions: Collection[int]) -> bool:
    return seen.version is None or seen.version in versions
