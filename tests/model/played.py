"""The workers of the model test: what they hold, what they believe to hold, and what they write."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from tests.model.expected import Expected, batch_of
from tests.model.world import COUNT, Change, Deed, World
from vidan.domain import STOPPING, Status
from vidan.errors import LeaseLost
from vidan.services import leases, predictions, runs, workers
from vidan.services.leases import Claimed, Fence
from vidan.services.predictions import Batch
from vidan.services.runs import Ending, Failed

_numbers = itertools.count(1)


@dataclass
class PlayedRun:
    """A run as its worker believes it to be; it may long be another's."""

    fence: Fence
    needs_source: bool
    checkpoint: int
    done: int  # what the task counts
    moved: int = 0  # commits that moved the checkpoint
    unanswered: Batch | None = None

    @property
    def id(self) -> int:
        """The scenario's."""
        return self.fence.scenario_id


@dataclass
class Played:
    """A worker process, or what is left of it."""

    claimant: leases.Claimant
    slots: int
    lease_until: datetime | None = None  # None: given up
    ended: bool = False
    called_gone: bool = False
    row_gone: bool = False
    runs: list[PlayedRun] = field(default_factory=list)
    unknown: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def id(self) -> uuid.UUID:
        """The registration's."""
        return self.claimant.worker_id

    def end_lease(self, until: datetime | None) -> None:
        """Its lease has ended at that time, or was given up."""
        self.lease_until, self.ended = until, True


class Workers:
    """All the workers that there have been, and what each may do."""

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
        """A worker comes."""
        claimant = leases.Claimant(
            uuid.UUID(int=next(_numbers)),
            f"w{len(self.all)}",
            tuple(queues),
            ("detect", COUNT.name),
            source,
            suspects=slots == 1,
            only_suspects=quarantine,
        )
        worker = Played(claimant, slots)

        def work(connection: Connection) -> None:
            workers.register(
                connection,
                workers.Registration(
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
        """Leases end when the test says so."""
        worker.lease_until = connection.execute(
            text(
                "UPDATE workers SET lease_until = lease_until + interval '1 day' WHERE id = :id"
                " RETURNING lease_until"
            ),
            {"id": worker.id},
        ).scalar_one()

    def renew(self, worker: Played) -> Deed[bool]:
        """A heartbeat's first statement: only while the lease has not ended."""

        def work(connection: Connection) -> bool:
            renewed = workers.renew(connection, worker.id, state="busy", fps=1.0)
            if renewed:
                self._hold_lease(connection, worker)
            return renewed is not None

        def judge(renewed: bool) -> None:
            assert renewed == (not worker.ended)

        return Deed("renew", work, judge, waits_for=[] if worker.ended else [worker.id])

    def heartbeat(self, worker: Played) -> bool:
        """Renew, compare with what the runs believe, put back what nobody runs."""
        if not self.world.do(self.renew(worker)):
            return False
        if worker.ended:
            return True
        with self.world.database.begin() as connection:
            held = leases.held(connection, worker.id)
        expected = [one for one in self.world.expected.values() if one.worker == worker.id]
        assert [(row.scenario_id, row.epoch, row.status) for row in held] == sorted(
            (one.id, one.epoch, one.status) for one in expected
        )
        rows = {(row.scenario_id, row.epoch) for row in held}
        believed = {(run.id, run.fence.epoch) for run in worker.runs}
        worker.unknown = {one: worker.unknown.get(one, 0) + 1 for one in rows - believed}
        lost = sorted(one for one, beats in worker.unknown.items() if beats >= 2)
        fences = [Fence(*one, worker.id) for one in lost]
        return not fences or self.world.do(self.put_back(fences))

    def let_lease_end(self, worker: Played, seconds_ago: float = 1.0) -> bool:
        """It did not renew: the host is gone, the process was stopped, the network was cut."""

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
        """It leaves."""

        def judge(_: None) -> Change:
            def change() -> None:
                worker.end_lease(None)
                worker.called_gone = True

            return change

        return self.world.do(
            Deed("sign off", lambda c: workers.sign_off(c, worker.id), judge, [worker.id])
        )

    def forget(self, worker: Played) -> bool:
        """Its row is deleted by hand, whatever it holds."""

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
        skip: Sequence[int] = (),
        without_source: bool = False,
        answer_lost: bool = False,
    ) -> Deed[list[Claimed]]:
        """Claim up to `free`. Of an answer that is lost the worker knows nothing."""
        claimant = worker.claimant

        def work(connection: Connection) -> list[Claimed]:
            return leases.claim(
                connection, claimant, free, skip=skip, without_source=without_source
            )

        def judge(answer: list[Claimed]) -> Change:
            able = [
                one
                for one in self.world.expected.values()
                if not worker.ended
                and one.can_be_claimed_by(claimant, without_source=without_source)
                and one.id not in self.world.locked
                and one.id not in skip
            ]
            self._judge_choice(able, answer, free)

            def change() -> None:
                for claimed in answer:
                    self._claimed(worker, claimed, answer_lost=answer_lost)

            return change

        return Deed(f"claim {free}", work, judge)

    def _judge_choice(self, able: list[Expected], answer: list[Claimed], free: int) -> None:
        taken = [claimed.fence.scenario_id for claimed in answer]
        assert set(taken) <= {one.id for one in able}
        assert len(taken) == min(free, len(able)), "what could be claimed was left"
        rank = {one.id: (-one.priority, one.not_before) for one in able}
        order = [rank[one] for one in taken]
        assert order == sorted(order)
        left = [rank[one.id] for one in able if one.id not in taken]
        assert not (left and order) or order[-1] <= min(left)

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

    # --- fenced writes

    def _mine(self, fences: Sequence[Fence]) -> list[Expected]:
        return [
            self.world.expected[fence.scenario_id]
            for fence in fences
            if fence.scenario_id in self.world.expected
            and self.world.expected[fence.scenario_id].belongs_to(fence)
        ]

    def _fenced(self, what: str, fences: Sequence[Fence], work: Any, judge: Any) -> Deed[Any]:
        mine = [one.id for one in self._mine(fences)]
        return Deed(what, work, judge, waits_for=mine, delays=what == "fail")

    def activate(self, fences: Sequence[Fence]) -> Deed[dict[int, Status]]:
        """Runs begin, several at once."""

        def judge(answer: dict[int, Status]) -> Change:
            mine = self._mine(fences)

            def change() -> None:
                for one in mine:
                    one.activate()
                assert answer == {one.id: one.status for one in mine}

            return change

        return self._fenced("start", fences, lambda c: runs.start(c, fences, actor="w"), judge)

    def next_batch(self, run: PlayedRun, length: int, gap: tuple[int, int] | None) -> Batch:
        """Return what the run stores next; its second commit that moves proves progress."""
        start = run.checkpoint
        lost = None
        if gap is not None and length:
            first = start + gap[0] % length
            lost = (first, min(start + length - 1, first + gap[1]))
        seen = length - (0 if lost is None else lost[1] - lost[0] + 1)
        state = {"done": run.done + seen}
        return batch_of(start, length, lost, state, clear=run.moved >= 1 and length > 0)

    def commit(
        self, run: PlayedRun, batch: Batch, *, answer_lost: bool = False
    ) -> Deed[Status | None]:
        """Store a batch; an answer that is lost leaves the run to try the same once more."""
        fence = run.fence

        def work(connection: Connection) -> Status | None:
            try:
                return predictions.commit(connection, fence, batch)
            except LeaseLost:
                return None

        def judge(answer: Status | None) -> Change:
            expected = self.world.expected.get(run.id)
            if expected is None or not expected.takes(fence, batch):
                landed = expected is not None and expected.landed(fence, batch)
                assert answer == (expected.status if expected and landed else None)
                return lambda: self._answered(run, batch, answer_lost or not landed)
            assert answer is expected.status
            state = {"done": expected.state.get("done", 0) + len(batch.rows)}

            def change() -> None:
                expected.commit(batch, state)
                self._answered(run, batch, answer_lost)

            return change

        return self._fenced("commit", [fence], work, judge)

    def _answered(self, run: PlayedRun, batch: Batch, lost: bool) -> None:
        run.unanswered = batch if lost else None
        if not lost:
            run.moved += batch.to_checkpoint > batch.from_checkpoint
            run.checkpoint = batch.to_checkpoint
            run.done += len(batch.rows)

    def finish(self, endings: Sequence[Ending]) -> Deed[set[int]]:
        """Runs end on their own, several in one statement."""

        def judge(answer: set[int]) -> Change:
            mine = {one.id: one for one in self._mine([ending.fence for ending in endings])}

            def change() -> None:
                ended = set()
                for ending in endings:
                    expected = mine.get(ending.fence.scenario_id)
                    if expected is None or not expected.belongs_to(ending.fence):
                        continue
                    if expected.finish(ending.status, ending.result, ending.state):
                        ended.add(expected.id)
                assert answer == ended

            return change

        fences = [ending.fence for ending in endings]
        return self._fenced("finish", fences, lambda c: runs.finish(c, endings, actor="w"), judge)

    def ending(self, run: PlayedRun, status: Status) -> Ending:
        """Return how a run ends: a result, or an error that no retry can mend."""
        return Ending(
            run.fence,
            status,
            result={"frames": run.done} if status is Status.COMPLETED else None,
            state=None if run.needs_source else {"done": run.fence.epoch},
            error="rejected" if status is Status.FAILED else None,
        )

    def shut_down(self, run: PlayedRun) -> Deed[bool]:
        """A run that was asked to stop says that it is letting go."""

        def judge(answer: bool) -> Change:
            mine = self._mine([run.fence])

            def change() -> None:
                assert answer == bool(mine and mine[0].shut_down())

            return change

        return self._fenced(
            "shut down",
            [run.fence],
            lambda c: runs.shutting_down(c, run.fence, actor="w"),
            judge,
        )

    def fail(self, run: PlayedRun, retries: list[int]) -> Deed[Failed | None]:
        """A run raised an error; within the budget an event goes to the retry topic."""

        def judge(answer: Failed | None) -> Change:
            mine = self._mine([run.fence])

            def change() -> None:
                if not mine:
                    assert answer is None
                    return
                (expected,) = mine
                before = expected.attempts
                expected.fail()
                assert answer == Failed(expected.status, expected.attempts)
                if expected.status is Status.INIT_STARTUP:
                    retries.append(expected.id)
                    wait = self.world.waits[expected.id]
                    assert 0.5 * 2**before - 0.5 <= wait <= 2**before

            return change

        return self._fenced(
            "fail", [run.fence], lambda c: runs.fail(c, run.fence, "e", actor="w"), judge
        )

    def put_back(self, fences: Sequence[Fence]) -> Deed[set[int]]:
        """A worker hands over, or finds rows without a run."""

        def judge(answer: set[int]) -> Change:
            mine = self._mine(fences)
            assert answer == {one.id for one in mine}
            return _put_all_back(mine)

        return self._fenced(
            "hand over",
            fences,
            lambda c: leases.hand_over(c, fences, reason="handed over", actor="w"),
            judge,
        )

    def is_stopping(self, run: PlayedRun) -> bool:
        """Whether the run has been asked to stop."""
        return any(one.status in STOPPING for one in self._mine([run.fence]))


def _put_all_back(those: Sequence[Expected]) -> Change:
    def change() -> None:
        for one in those:
            one.put_back()

    return change
