"""A worker without a process: a test makes it write to the database step by step."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy import Connection, text

from vidan.db.session import Database
from vidan.domain.detection import Gap
from vidan.domain.status import Status
from vidan.protocol import claims, commits, fences, heartbeats, lifecycle
from vidan.protocol.definitions import UNCHECKED
from vidan.protocol.tasks import DETECT, find

LABELS = ("person", "car")


def all_definitions(connection: Connection, tasks: Collection[str]) -> dict[str, set[str]]:
    """Return all definitions that there are of these tasks, and that of rows without any."""
    found = {task: {UNCHECKED} for task in tasks}
    if DETECT.name in found:
        found[DETECT.name].add(DETECT.definition)
    for row in connection.execute(text("SELECT task, digest FROM task_definitions")):
        if row.task in found:
            found[row.task].add(row.digest)
    return found


class PlayedWorker:
    """Registers in the database, claims one scenario at a time and stores its frames."""

    def __init__(
        self,
        database: Database,
        name: str = "cpu-0@test",
        *,
        queues: tuple[str, ...] = ("default",),
        tasks: tuple[str, ...] = ("detect",),
        source: str | None = None,
        suspects: bool = False,
        only_suspects: bool = False,
    ) -> None:
        self.database = database
        self.name = name
        self.id = uuid.uuid4()
        self._claimant = claims.Claimant(
            self.id, name, queues, tasks, source, suspects, only_suspects
        )
        with database.begin() as connection:
            heartbeats.register(
                connection,
                heartbeats.Registration(
                    self.id, name, "test", os.getpid(), "cpu", 1, queues, tasks, source
                ),
            )
        self.fence: fences.Fence | None = None
        self.checkpoint = 0

    @property
    def claimant(self) -> claims.Claimant:
        """What it claims with: all definitions that there are of its tasks, unless it was set."""
        if self._claimant.definitions:
            return self._claimant
        with self.database.begin() as connection:
            tasks = self._claimant.tasks
            return replace(
                self._claimant,
                definitions=all_definitions(connection, tasks),
                capped=[one.name for one in find(connection) if one.capped and one.name in tasks],
            )

    @claimant.setter
    def claimant(self, claimant: claims.Claimant) -> None:
        self._claimant = claimant

    def take(
        self, count: int = 1, *, skip: Collection[int] = (), without_source: bool = False
    ) -> list[claims.Claimed]:
        """Claim up to `count` scenarios, and do nothing else with them."""
        free, ahead = (0, count) if without_source else (count, 0)
        claimant = self.claimant
        with self.database.begin() as connection:
            return claims.claim(connection, claimant, free, ahead=ahead, skip=skip)

    def claim(self) -> int:
        """Claim the first scenario of the queue and set it `active`; returns its id."""
        (claimed,) = self.take()
        self.fence, self.checkpoint = claimed.fence, claimed.checkpoint
        with self.database.begin() as connection:
            lifecycle.start(connection, [self.fence], actor=self.name)
        return self.fence.scenario_id

    def let_lease_end(self, seconds_ago: float = 1.0) -> None:
        """Let the lease have ended this many seconds ago, as if the worker could not renew it."""
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE workers SET lease_until = now() - make_interval(secs => :ago)"
                    " WHERE id = :id"
                ),
                {"ago": seconds_ago, "id": self.id},
            )

    def store(
        self,
        frames: Sequence[int],
        *,
        found: int = 1,
        total: int | None = None,
        gaps: Sequence[Gap] = (),
        source_info: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Store frames with `found` detections each; every second detection is a car."""
        assert self.fence is not None
        rows = [
            commits.Row(
                frame,
                frame * 40,
                [one % 2 for one in range(found)],
                [0.9 - one / 10 for one in range(found)],
                [edge for one in range(found) for edge in (one, 2.0, 30.0 + one, 40.0)],
            )
            for frame in frames
        ]
        to = frames[-1] + 1
        batch = commits.Batch(
            self.checkpoint,
            to,
            None,
            "{}",
            LABELS,
            rows,
            gaps,
            frames_total=total,
            source_info=source_info,
            notes=notes,
        )
        with self.database.begin() as connection:
            commits.commit(connection, self.fence, batch)
        self.checkpoint = to

    def end(self, status: Status, error: str | None = None) -> None:
        """End the claimed scenario with this status."""
        assert self.fence is not None
        with self.database.begin() as connection:
            ended = lifecycle.finish(
                connection, [lifecycle.Ending(self.fence, status, error=error)], actor=self.name
            )
        assert ended == {self.fence.scenario_id}
