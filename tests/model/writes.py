"""What workers write under a fence: several rows at once, including rows that they have lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from tests.model.expected import Expected, batch_of
from tests.model.played import Played, PlayedRun, Workers
from tests.model.world import Change, Deed, World
from vidan.domain.status import Status
from vidan.errors import LeaseLost
from vidan.protocol import commits, lifecycle
from vidan.protocol.commits import Batch
from vidan.protocol.fences import Fence
from vidan.protocol.lifecycle import Ending, Failed


def _mine(world: World, fences: Sequence[Fence]) -> list[Expected]:
    return [
        world.expected[fence.scenario_id]
        for fence in fences
        if fence.scenario_id in world.expected
        and world.expected[fence.scenario_id].belongs_to(fence)
    ]


def _fenced(world: World, what: str, fences: Sequence[Fence], work: Any, judge: Any) -> Deed[Any]:
    mine = [one.id for one in _mine(world, fences)]
    return Deed(what, work, judge, waits_for=mine, delays=what == "fail")


def activate(world: World, fences: Sequence[Fence]) -> Deed[dict[int, Status]]:
    """Several runs begin at once."""

    def judge(answer: dict[int, Status]) -> Change:
        mine = _mine(world, fences)

        def change() -> None:
            for one in mine:
                one.activate()
            assert answer == {one.id: one.status for one in mine}

        return change

    return _fenced(world, "start", fences, lambda c: lifecycle.start(c, fences, actor="w"), judge)


def next_batch(run: PlayedRun, length: int, gap: tuple[int, int] | None) -> Batch:
    """Return the next batch of a run; the second one that moves the checkpoint proves progress."""
    start = run.checkpoint
    lost = None
    if gap is not None and length:
        first = start + gap[0] % length
        lost = (first, min(start + length - 1, first + gap[1]))
    seen = length - (0 if lost is None else lost[1] - lost[0] + 1)
    state = {"done": run.done + seen}
    return batch_of(start, length, lost, state, clear=run.moved >= 1 and length > 0)


def commit(
    world: World, run: PlayedRun, batch: Batch, *, answer_lost: bool = False
) -> Deed[Status | None]:
    """Store a batch; if the answer is lost, the run tries the same batch again."""
    fence = run.fence

    def work(connection: Connection) -> Status | None:
        try:
            return commits.commit(connection, fence, batch)
        except LeaseLost:
            return None

    def judge(answer: Status | None) -> Change:
        expected = world.expected.get(run.id)
        if expected is None or not expected.takes(fence, batch):
            landed = expected is not None and expected.landed(fence, batch)
            assert answer == (expected.status if expected and landed else None)
            return lambda: _answered(run, batch, answer_lost or not landed)
        assert answer is expected.status
        state = {"done": expected.state.get("done", 0) + len(batch.rows)}

        def change() -> None:
            expected.commit(batch, state)
            _answered(run, batch, answer_lost)

        return change

    return _fenced(world, "commit", [fence], work, judge)


def _answered(run: PlayedRun, batch: Batch, lost: bool) -> None:
    run.unanswered = batch if lost else None
    if not lost:
        run.moved += batch.to_checkpoint > batch.from_checkpoint
        run.checkpoint = batch.to_checkpoint
        run.done += len(batch.rows)


def finish(world: World, endings: Sequence[Ending]) -> Deed[set[int]]:
    """Several runs end by themselves, in one statement."""

    def judge(answer: set[int]) -> Change:
        mine = {one.id: one for one in _mine(world, [ending.fence for ending in endings])}

        def change() -> None:
            ended = set()
            for ending in endings:
                expected = mine.get(ending.fence.scenario_id)
                if expected is None or not expected.belongs_to(ending.fence):
                    continue
                result, state = (json.loads(one or "null") for one in (ending.result, ending.state))
                if expected.finish(ending.status, result, state):
                    ended.add(expected.id)
            assert answer == ended

        return change

    fences = [ending.fence for ending in endings]
    return _fenced(
        world, "finish", fences, lambda c: lifecycle.finish(c, endings, actor="w"), judge
    )


def ending(run: PlayedRun, status: Status) -> Ending:
    """Return how a run ends: with a result, or with an error that no retry can fix."""
    return Ending(
        run.fence,
        status,
        result=json.dumps({"frames": run.done}) if status is Status.COMPLETED else None,
        state=None if run.needs_source else json.dumps({"done": run.fence.epoch}),
        error="rejected" if status is Status.FAILED else None,
    )


def shut_down(world: World, run: PlayedRun) -> Deed[bool]:
    """A run that was asked to stop reports that it is shutting down."""

    def judge(answer: bool) -> Change:
        mine = _mine(world, [run.fence])

        def change() -> None:
            assert answer == bool(mine and mine[0].shut_down())

        return change

    return _fenced(
        world,
        "shut down",
        [run.fence],
        lambda c: lifecycle.shut_down(c, run.fence, actor="w"),
        judge,
    )


def fail(world: World, run: PlayedRun, retries: list[int]) -> Deed[Failed | None]:
    """A run raises an error; within the budget an event goes to the retry topic."""

    def judge(answer: Failed | None) -> Change:
        mine = _mine(world, [run.fence])

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
                wait = world.waits[expected.id]
                assert 0.5 * 2**before - 0.5 <= wait <= 2**before

        return change

    return _fenced(
        world, "fail", [run.fence], lambda c: lifecycle.fail(c, run.fence, "e", actor="w"), judge
    )


def hand_over(world: World, fences: Sequence[Fence]) -> Deed[set[int]]:
    """A worker hands scenarios over, or gives up rows without a run."""

    def judge(answer: set[int]) -> Change:
        mine = _mine(world, fences)
        assert answer == {one.id for one in mine}
        return _hand_all_over(mine)

    return _fenced(
        world,
        "hand over",
        fences,
        lambda c: lifecycle.hand_over(c, fences, reason="handed over", actor="w"),
        judge,
    )


def heartbeat(world: World, workers: Workers, worker: Played) -> bool:
    """Renew the lease, compare the held rows with the runs, hand over rows without a run."""
    if not world.do(workers.beat(worker, count=bool(len(worker.runs) % 2))):
        return False
    if worker.ended:
        return True
    lost = sorted(one for one, beats in worker.unknown.items() if beats >= 2)
    fences = [Fence(*one, worker.id) for one in lost]
    return not fences or world.do(hand_over(world, fences))


def _hand_all_over(those: Sequence[Expected]) -> Change:
    def change() -> None:
        for one in those:
            one.hand_over()

    return change
