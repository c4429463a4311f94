"""The workers of the model test: what they hold, what they believe to hold, what they write."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from tests.model.expected import Expected
from tests.model.world import COUNT, Change, Deed, World
from vidan.protocol import claims, heartbeats
from vidan.protocol.claims import Claimed
from vidan.protocol.commits import Batch
from vidan.protocol.definitions import UNCHECKED
from vidan.protocol.fences import Fence
from vidan.protocol.tasks import DETECT

_numbers = itertools.count(1)


@dataclass
class PlayedRun:
    """A run as its worker believes it to be; another worker may have claimed it since."""

    fence: Fence
    needs_source: bool
    checkpoint: int
    done: int  # the frames that the task has counted
    moved: int = 0  # the commits that moved the checkpoint
    unanswered: Batch | None = None

    @property
    def id(self) -> int:
        """The id of the scenario."""
        return self.fence.scenario_id


@dataclass
class Played:
    """A worker process, be it that it has ended."""

    claimant: claims.Claimant
    slots: int
    lease_until: datetime | None = None  # None: the lease was given up
    ended: bool = False
    called_gone: bool = False
    row_gone: bool = False
    runs: list[PlayedRun] = field(default_factory=list)
    unknown: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def id(self) -> uuid.UUID:
        """The id of the registration."""
        return self.claimant.worker_id

    def end_lease(self, until: datetime | None) -> None:
        """The lease has ended at that time, or was given up."""
        self.lease_until, self.ended = until, True


class Workers:
    """All workers that were ever registered, and what each may do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.all: list[Played] = []

    # --- registrations and leases

    def register(
        self,
        *,
        slots: int = 1,
        source: str | None = None,
        quarantine: bool = False,
        queues: Sequence[str] = ("north", "south"),
    ) -> Played:
        """A worker registers."""
        claimant = claims.Claimant(
            uuid.UUID(int=next(_numbers)),
            f"w{len(self.all)}",
            tuple(queues),
            ("detect", COUNT.name),
            source,
            suspects=slots == 1,
            only_suspects=quarantine,
            definitions={one.name: (UNCHECKED, one.definition) for one in (DETECT, COUNT)},
        )
        worker = Played(claimant, slots)

        def work(connection: Connection) -> None:
            heartbeats.register(
                connection,
                heartbeats.Registration(
                    worker.id,
                    claimant.name,
                    "test",
                    os.getpid(),
                    "cpu",
                    slots,
                    claimant.queues,
                    claimant.tasks,
                    source,
                    quarantine,
                ),
            )
            self._hold_lease(connection, worker)

        self.world.do(Deed("register", work, lambda _: lambda: self.all.append(worker)))
        return worker

    def _hold_lease(self, connection: Connection, worker: Played) -> None:
        """Prolong the lease by a day: it ends only when the test ends it."""
        worker.lease_until = connection.execute(
            text(
                "UPDATE workers SET lease_until = lease_until + interval '1 day' WHERE id = :id"
                " RETURNING lease_until"
            ),
            {"id": worker.id},
        ).scalar_one()

    def beat(self, worker: Played, *, count: bool) -> Deed[heartbeats.Beat | None]:
        """A heartbeat renews the lease unless it has ended, and returns the rows that are held.

        `unknown` counts, for each row without a run, the successive heartbeats that have found it.
        """

        def work(connection: Connection) -> heartbeats.Beat | None:
            beat = heartbeats.beat(connection, worker.id, state="busy", fps=1.0, count=count)
            if beat is not None:
                self._hold_lease(connection, worker)
            return beat

        def judge(beat: heartbeats.Beat | None) -> Change | None:
            assert (beat is None) == worker.ended
            if beat is None:
                return None
            assert beat.live == (sum(not one.ended for one in self.all) if count else None)
            expected = [one for one in self.world.expected.values() if one.worker == worker.id]
            assert [(row.scenario_id, row.epoch, row.status) for row in beat.held] == sorted(
                (one.id, one.epoch, one.status) for one in expected
            )
            rows = {(row.scenario_id, row.epoch) for row in beat.held}
            believed = {(run.id, run.fence.epoch) for run in worker.runs}
            unknown = {one: worker.unknown.get(one, 0) + 1 for one in rows - believed}
            return lambda: setattr(worker, "unknown", unknown)

        return Deed("beat", work, judge, waits_for=[] if worker.ended else [worker.id])

    def let_lease_end(self, worker: Played, seconds_ago: float = 1.0) -> bool:
        """The worker did not renew its lease: its host, its process or the network failed."""

        def work(connection: Connection) -> datetime:
            until: datetime = connection.execute(
                text(
                    "UPDATE workers SET lease_until = now() - make_interval(secs => :ago)"
                    " WHERE id = :id RETURNING lease_until"
                ),
                {"ago": seconds_ago, "id": worker.id},
            ).scalar_one()
            return until

        def judge(until: datetime) -> Change:
            return lambda: worker.end_lease(until)

        return self.world.do(Deed("lease ends", work, judge, waits_for=[worker.id]))

    def sign_off(self, worker: Played) -> bool:
        """The worker leaves."""

        def judge(_: None) -> Change:
            def change() -> None:
                worker.end_lease(None)
                worker.called_gone = True

            return change

        return self.world.do(
            Deed("sign off", lambda c: heartbeats.sign_off(c, worker.id), judge, [worker.id])
        )

    def forget(self, worker: Played) -> bool:
        """An operator deletes the row of the worker, whatever it holds."""

        def work(connection: Connection) -> None:
            connection.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker.id})

        def judge(_: None) -> Change:
            def change() -> None:
                worker.end_lease(None)
                worker.row_gone = True

            return change

        return self.world.do(Deed("forget", work, judge, [worker.id]))

    # --- claims

    def claim(
        self,
        worker: Played,
        free: int,
        *,
        ahead: int = 0,
        skip: Sequence[int] = (),
        answer_lost: bool = False,
    ) -> Deed[list[Claimed]]:
        """Claim up to `free` scenarios, and `ahead` more that have no source.

        If the answer is lost, the worker does not know what it has claimed.
        """
        claimant = worker.claimant

        def work(connection: Connection) -> list[Claimed]:
            return claims.claim(connection, claimant, free, ahead=ahead, skip=skip)

        def judge(answer: list[Claimed]) -> Change:
            able, able_ahead = (
                [
                    one
                    for one in self.world.expected.values()
                    if not worker.ended
                    and one.can_be_claimed_by(claimant, without_source=without_source)
                    and one.id not in self.world.locked
                    and one.id not in skip
                ]
                for without_source in (False, True)
            )
            self._judge_choice(able if free else able_ahead, able_ahead, answer, free, ahead)

            def change() -> None:
                for claimed in answer:
                    self._claimed(worker, claimed, answer_lost=answer_lost)

            return change

        return Deed(f"claim {free} and {ahead}", work, judge)

    def _judge_choice(
        self,
        able: list[Expected],
        able_ahead: list[Expected],
        answer: list[Claimed],
        free: int,
        ahead: int,
    ) -> None:
        taken = [claimed.fence.scenario_id for claimed in answer]
        rank = {one.id: (-one.priority, one.not_before) for one in able}
        assert set(taken) <= rank.keys()
        assert len(taken) <= free + ahead
        order = [rank[one] for one in taken]
        assert order == sorted(order)
        now, further = order[:free], taken[free:]
        left = [rank[one.id] for one in able if one.id not in taken]
        left_ahead = [rank[one.id] for one in able_ahead if one.id not in taken]
        assert len(taken) >= free or not left, "a claimable scenario was left"
        assert len(taken) == free + ahead or not left_ahead, "a claimable scenario was left"
        assert not (left and now) or now[-1] <= min(left)
        assert not (left_ahead and further) or order[-1] <= min(left_ahead)
        # among scenarios of equal rank, any may have got the free slots
        ids_ahead = {one.id for one in able_ahead}
        assert all(one in ids_ahead or rank[one] == now[-1] for one in further)

    def _claimed(self, worker: Played, claimed: Claimed, *, answer_lost: bool) -> None:
        expected = self.world.expected[claimed.fence.scenario_id]
        expected.claim(worker.claimant)
        assert claimed.fence == Fence(expected.id, expected.epoch, worker.id)
        found = (claimed.checkpoint, claimed.state, claimed.crashes, claimed.source)
        assert found == (
            expected.checkpoint,
            expected.state,
            expected.crashes,
            expected.source,
        )
        if not answer_lost:
            worker.runs.append(
                PlayedRun(
                    claimed.fence,
                    claimed.needs_source,
                    claimed.checkpoint,
                    claimed.state.get("done", 0),
                )
            )
