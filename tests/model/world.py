"""The world of the model test: the services on a real database, and the model of what they do.

Every step is a `Deed`: the work of one transaction, and how the model judges its answer. After each
step all rows are compared with the model, and the invariants are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from tests.model.expected import Announcement, Expected
from tests.model.invariants import Invariants
from tests.model.open_transactions import OpenTransaction
from vidan.db.session import Database
from vidan.domain.status import ENDED, Status
from vidan.protocol.tasks import TaskSpec, publish

T = TypeVar("T")
Change = Callable[[], object]
"""Changes the model as a deed has changed the database."""

COUNT = TaskSpec("count", {"type": "object"}, needs_source=False, max_attempts=2)
"""A task without a source."""

ALL_ROWS = """
SELECT s.*, s.not_before <= now() AS due,
       CASE WHEN s.announce_at IS NULL THEN 'none' WHEN s.announce_at <= now() THEN 'due'
            ELSE 'later' END AS announcement,
       ARRAY(SELECT p.frame FROM predictions p WHERE p.scenario_id = s.id ORDER BY 1) AS frames,
       ARRAY(SELECT jsonb_build_array(g.from_frame, g.to_frame) FROM gaps g
             WHERE g.scenario_id = s.id ORDER BY g.from_frame) AS gaps,
       ARRAY(SELECT jsonb_build_array(t.from_status, t.to_status, t.reason) FROM transitions t
             WHERE t.scenario_id = s.id ORDER BY t.id) AS history
FROM scenarios s ORDER BY s.id
"""

# A scenario that waits at all waits for an hour, so that no step depends on the machine's speed
_HOLD_CLOCKS = """
UPDATE scenarios SET
    not_before = CASE WHEN not_before > now() THEN now() + interval '1 hour' ELSE not_before END,
    announce_at = CASE WHEN announce_at > now() THEN now() + interval '1 hour' ELSE announce_at END
WHERE id = ANY(:ids)
"""
_SOON = """
SELECT id, extract(epoch FROM not_before - now())::float AS wait,
       extract(epoch FROM announce_at - now())::float AS announced_in
FROM scenarios WHERE greatest(not_before, announce_at) > now()
  AND least(CASE WHEN not_before > now() THEN not_before END,
            CASE WHEN announce_at > now() THEN announce_at END) < now() + interval '50 minutes'
"""


@dataclass
class Deed(Generic[T]):
    """The work of an actor in one transaction.

    `judge` compares the answer with the model, and returns the change of the model that the commit
    brings. `waits_for` are the rows whose locks the work would wait for.
    """

    what: str
    work: Callable[[Connection], T]
    judge: Callable[[T], Change | None]
    waits_for: Collection[int | UUID | str] = ()
    delays: bool = False  # it may set a time in the future


class World:
    """The database, the model, and the open transactions."""

    def __init__(
        self, database: Database, url: str, met: Counter[tuple[Status, Status]] | None = None
    ) -> None:
        self.met = Counter() if met is None else met  # the changes of status so far
        self.database = database
        self.url = url
        self.expected: dict[int, Expected] = {}
        self.deleted: list[int] = []
        self.open: list[OpenTransaction] = []
        self.locked: set[int | UUID | str] = set()
        self.waits: dict[int, float] = {}  # seconds until not_before, as the last deed set it
        self.rows: dict[int, RowMapping] = {}
        self.invariants = Invariants()
        with database.begin() as connection:
            connection.execute(
                text("TRUNCATE scenarios, transitions, predictions, gaps, workers, dead_letters")
            )
            publish(connection, [COUNT])

    # --- deeds

    def can(self, deed: Deed[Any]) -> bool:
        """Whether no open transaction holds a lock that the deed would wait for."""
        return not self.locked.intersection(deed.waits_for)

    def do(self, deed: Deed[Any]) -> bool:
        """Do it in one transaction, and check. Returns False if the deed would have to wait."""
        if not self.can(deed):
            return False
        answer = self.database.retrying(self._within, deed)
        if (change := deed.judge(answer)) is not None:
            change()
        self.check()
        return True

    def leave_open(self, deed: Deed[Any], worker_id: UUID | None = None) -> OpenTransaction | None:
        """Do it in a transaction that stays open, in a session of the actor."""
        if not self.can(deed):
            return None
        left = OpenTransaction(deed.what, worker_id, lambda: None)
        connection = left.begin(self.url)
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        answer = self._within(connection, deed)
        change, waits = deed.judge(answer), self.waits

        def change_later() -> None:
            self.waits = waits
            if change is not None:
                change()

        left.change = change_later
        self.open.append(left)
        self.check()
        return left

    def _within(self, connection: Connection, deed: Deed[T]) -> T:
        answer = deed.work(connection)
        if deed.delays:
            soon = connection.execute(text(_SOON)).all()
            self.waits = {row.id: row.wait for row in soon}
            connection.execute(text(_HOLD_CLOCKS), {"ids": [row.id for row in soon]})
        return answer

    def settle(self, left: OpenTransaction, how: str) -> None:
        """Commit an open transaction, roll it back, or cut its connection."""
        self.open.remove(left)
        if left.in_copy or how == "cut":
            left.cut(self.database)
        elif how == "commit":
            left.commit()
        else:
            left.roll_back()
        self.check()

    def were_ended(self, sessions: Collection[OpenTransaction]) -> None:
        """The server was asked to end these sessions: their transactions roll back."""
        for left in sessions:
            self.open.remove(left)
            left.wait_until_ended(self.database)
        self.check()

    def close(self) -> None:
        """End the open transactions, without a check."""
        while self.open:
            self.open.pop().cut(self.database)
        self.locked = set()

    # --- checking

    def check(self) -> None:
        """Compare every row with the model, and check the invariants."""
        with self.database.begin() as connection:
            found = connection.execute(text(ALL_ROWS)).mappings().all()
            self.locked = self._find_locked(connection) if self.open else set()
        before, self.rows = self.rows, {row["id"]: row for row in found}
        assert set(self.rows) == set(self.expected)
        for row in found:
            self._compare(row, self.expected[row["id"]])
            seen = len(before[row["id"]]["history"]) if row["id"] in before else 1
            self.met.update(self.expected[row["id"]].history[seen:])  # type: ignore[arg-type]
        self.invariants.check(before, self.rows)

    def _find_locked(self, connection: Connection) -> set[int | UUID | str]:
        locked: set[int | UUID | str] = set()
        for table in ("scenarios", "workers"):
            locked.update(
                connection.execute(
                    text(
                        f"SELECT id FROM {table} EXCEPT SELECT id FROM (SELECT id FROM {table}"
                        " FOR NO KEY UPDATE SKIP LOCKED) free"
                    )
                ).scalars()
            )
        return locked

    def _compare(self, row: RowMapping, expected: Expected) -> None:
        found = {
            "status": Status(row["status"]),
            "epoch": row["epoch"],
            "worker": row["worker_id"],
            "attempts": row["attempts"],
            "crashes": row["crashes"],
            "checkpoint": row["checkpoint"],
            "frames": row["frames"],
            "gaps": [tuple(gap) for gap in row["gaps"]],
            "frames_done": row["frames_done"],
            "state": row["state"],
            "result": row["result"],
            "source": row["source"],
            "bound": row["source_bound"],
            "announcement": Announcement(row["announcement"]),
            "started": row["started_at"] is not None,
            "ended": row["ended_at"] is not None,
            "history": [(old and Status(old), Status(new)) for old, new, _ in row["history"]],
        }
        wanted = {
            name: getattr(expected, name) for name in found if name not in ("frames_done", "ended")
        }
        wanted["frames_done"] = len(expected.frames)
        wanted["ended"] = expected.status in ENDED
        if expected.status is Status.INIT_STARTUP:
            found["due"], wanted["due"] = row["due"], expected.due
        wrong = [
            f"{name}: {found[name]}, not {wanted[name]}"
            for name in found
            if found[name] != wanted[name]
        ]
        assert not wrong, f"scenario {expected.id} has {'; '.join(wrong)}"
        expected.not_before = row["not_before"]

    # --- time

    def time_passes(self, ids: Collection[int]) -> bool:
        """Let the times come that these scenarios wait for: the times are moved, not the clock."""

        def work(connection: Connection) -> None:
            connection.execute(
                text(
                    "UPDATE scenarios SET not_before = least(not_before, now()),"
                    " announce_at = announce_at - greatest(announce_at - now(), interval '0')"
                    " WHERE id = ANY(:ids)"
                    " AND greatest(not_before, announce_at) > now()"
                ),
                {"ids": list(ids)},
            )

        def judge(_: None) -> Change:
            return lambda: [self.expected[one].time_passes() for one in ids]

        return self.do(Deed("time passes", work, judge, waits_for=ids))
