"""The state machine: which actor does what next. Hypothesis chooses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model import orchestrators, users, writes
from tests.model.aftermath import everybody_dies
from tests.model.choices import (
    ASKED,
    CAMERAS,
    DEATHS,
    ENDS_OF_RUNS,
    FATES,
    KINDS,
    MAX_OPEN,
    MAX_SCENARIOS,
    MAX_WORKERS,
    ODD_PAYLOADS,
    QUEUES,
    STARTS,
    ZOMBIE,
    Happening,
    endings,
    event,
    flags,
    gaps,
    happenings,
    picks,
    rarely,
    wishes,
    witnesses,
)
from tests.model.orchestrators import Expiry, Topics
from tests.model.played import Played, PlayedRun, Workers
from tests.model.users import Wish
from tests.model.world import Deed, World
from vidan.domain.status import ENDED, HELD, RUNNING, Status
from vidan.domain.worker import LEASE_SECONDS

T = TypeVar("T")


class Protocol(RuleBasedStateMachine):
    """Users, workers, supervisors and orchestrators act in any possible order."""

    def __init__(self, world: World, count_step: Callable[[], None]) -> None:
        super().__init__()
        self.world = world
        self.workers = Workers(world)
        self.topics = Topics(world)
        self.count_step = count_step

    @initialize(slots=st.sampled_from([1, 4]), source=st.sampled_from([None, CAMERAS[0]]))
    def begin(self, slots: int, source: str | None) -> None:
        self.workers.register(slots=slots, source=source)
        self.workers.register()
        self.world.do(users.create(self.world, [Wish(max_attempts=0)]))

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                everybody_dies(self.world, self.workers, CAMERAS)
        finally:
            self.world.close()

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        self.count_step()
        super().check_invariants(*args, **kwargs)

    # --- choosing

    def _one(self, pick: int) -> int:
        """The id of a scenario; sometimes of one that was deleted or never existed."""
        known = [*self.world.expected] * 4 + [*self.world.deleted, 2**62]
        return known[pick % len(known)]

    def _live(self) -> list[Played]:
        return [worker for worker in self.workers.all if not worker.ended]

    def _worker(self, pick: int) -> Played:
        """A worker, mostly one that is alive."""
        live = self._live()
        able = live * 3 + self.workers.all if live else self.workers.all
        return able[pick % len(able)]

    def _busy_worker(self, pick: int) -> Played:
        """A worker, mostly one with an active run, so that its death is charged."""
        ids = {run.fence.worker_id for run in self._in(Status.ACTIVE)}
        busy = [worker for worker in self._live() if worker.id in ids]
        return _pick(busy, pick) if busy and pick % 3 else self._worker(pick)

    def _runs(self, *, mine: bool | None = None) -> list[PlayedRun]:
        runs = [run for worker in self.workers.all for run in worker.runs]
        if mine is None:
            return runs
        return [run for run in runs if self._is_mine(run) == mine]

    def _is_mine(self, run: PlayedRun) -> bool:
        expected = self.world.expected.get(run.id)
        return expected is not None and expected.belongs_to(run.fence)

    def _in(self, *statuses: Status) -> list[PlayedRun]:
        return [
            run for run in self._runs(mine=True) if self.world.expected[run.id].status in statuses
        ]

    def _of_one_worker(self, pick: int, count: int) -> list[PlayedRun]:
        """Some runs of one worker, including those that it has lost."""
        workers = [worker for worker in self.workers.all if worker.runs]
        if not workers:
            return []
        runs = workers[pick % len(workers)].runs
        start = pick % len(runs)
        return (runs[start:] + runs[:start])[:count]

    # --- what usually happens

    @event(24, pick=picks, length=st.integers(1, 3), ends=st.integers(0, 5))
    def work(self, pick: int, length: int, ends: int) -> None:
        """A live worker takes its next step: it claims, begins, stores or ends a run."""
        live = self._live()
        if not live:
            self.workers.register()
            return
        worker = _pick(live, pick)
        mine = [run for run in worker.runs if self._is_mine(run)]
        if len(mine) < worker.slots and (not mine or ends == 0):
            self._provide(worker, pick)
            self.world.do(self.workers.claim(worker, worker.slots - len(mine)))
            return
        run = _pick(mine, pick)
        match self.world.expected[run.id].status:
            case Status.INIT_STARTUP_PROCESSING:
                self.world.do(writes.activate(self.world, [run.fence]))
            case Status.ACTIVE if ends >= 4 or not run.needs_source:
                self.world.do(writes.finish(self.world, [writes.ending(run, Status.COMPLETED)]))
            case Status.ACTIVE:
                for _ in range(1 + ends % 2):  # the second commit of a run proves progress
                    gap = (pick % 3, pick % 2) if pick % 2 == 0 else None
                    self.world.do(self._commit(run, length, gap))
            case Status.INIT_SHUTDOWN if ends == 5:  # the task had returned
                self.world.do(writes.finish(self.world, [writes.ending(run, Status.COMPLETED)]))
            case Status.INIT_SHUTDOWN:
                self.world.do(writes.shut_down(self.world, run))
            case _ if ends % 2 and run.needs_source:
                self.world.do(self._commit(run, length, None))
            case _:
                self.world.do(writes.finish(self.world, [writes.ending(run, Status.INACTIVE)]))

    def _provide(self, worker: Played, pick: int) -> None:
        """Make a scenario claimable: let time pass, create one, or start one that has ended."""
        known = self.world.expected
        if any(one.can_be_claimed_by(worker.claimant) for one in known.values()):
            return
        if any(not one.due for one in known.values()):
            self.world.time_passes(list(known))
        elif len(known) < MAX_SCENARIOS:
            self.world.do(
                users.create(self.world, [Wish(source=worker.claimant.source or "/a.mp4")])
            )
        elif ended := [one.id for one in known.values() if one.status in ENDED]:
            one = _pick(ended, pick)
            self.world.do(users.start(self.world, one, from_beginning=pick % 2 == 0))

    # --- workers, oddly

    @event(
        2,
        slots=st.sampled_from([1, 4]),
        source=st.sampled_from([None, None, *CAMERAS]),
        quarantine=rarely,
        queues=st.sampled_from([QUEUES, QUEUES[:1]]),
    )
    def register(
        self, slots: int, source: str | None, quarantine: bool, queues: tuple[str, ...]
    ) -> None:
        if len(self._live()) >= MAX_WORKERS:
            return
        self.workers.register(
            slots=1 if quarantine else slots, source=source, quarantine=quarantine, queues=queues
        )

    @event(2, pick=picks, free=st.integers(0, 4), ahead=st.integers(0, 4), lost=flags, skip=picks)
    def claim(self, pick: int, free: int, ahead: int, lost: bool, skip: int) -> None:
        worker, skipped = self._worker(pick), [self._one(skip)]
        self.world.do(self.workers.claim(worker, free, ahead=ahead, skip=skipped, answer_lost=lost))

    @event(3, pick=picks, how=st.sampled_from(ENDS_OF_RUNS), statuses=endings)
    def runs_end(self, pick: int, how: str, statuses: list[Status]) -> None:
        runs = self._of_one_worker(pick, len(statuses))
        if not runs:
            return
        if how == "fail":
            self.world.do(writes.fail(self.world, runs[0], self.topics.retries))
        elif how == "hand over":
            self.world.do(writes.hand_over(self.world, [run.fence for run in runs]))
        elif how == "begin":
            self.world.do(writes.activate(self.world, [run.fence for run in runs]))
        else:
            some = [writes.ending(*one) for one in zip(runs, statuses, strict=False)]
            self.world.do(writes.finish(self.world, some))

    @event(3, pick=picks, length=st.integers(0, 4), gap=gaps, lost=flags)
    def commit(self, pick: int, length: int, gap: tuple[int, int] | None, lost: bool) -> None:
        if runs := self._able_to_store():
            self.world.do(self._commit(_pick(runs, pick), length, gap, lost=lost))

    @event(2, pick=picks, shift=st.integers(-4, 2), length=st.integers(0, 4), mine=flags)
    def commit_what_is_not_next(self, pick: int, shift: int, length: int, mine: bool) -> None:
        runs = self._with_source(mine=mine)
        if not runs:
            return
        run = replace(_pick(runs, pick), unanswered=None)
        expected = self.world.expected.get(run.id)
        if expected is None:
            self.world.do(self._commit(run, length, None))
        elif mine:
            run.checkpoint = max(0, run.checkpoint + shift)
            if run.checkpoint != expected.checkpoint:
                self.world.do(self._commit(run, length, None))
        else:
            run.checkpoint = expected.checkpoint  # everything is right except the fence
            self.world.do(self._commit(run, length, None))

    @event(4, pick=picks, how=st.sampled_from(ZOMBIE))
    def act_as_a_zombie(self, pick: int, how: str) -> None:
        lost = self._runs(mine=False)
        known = self.world.expected
        held = [run for run in lost if run.id in known and known[run.id].status in HELD]
        again = [run for run in held if known[run.id].worker == run.fence.worker_id]
        runs = again or held or lost  # best: its own worker has claimed the scenario again
        if not runs:
            return
        run = _pick(runs, pick)
        if how == "begin":
            self.world.do(writes.activate(self.world, [run.fence]))
        elif how == "hand over":
            self.world.do(writes.hand_over(self.world, [run.fence]))
        elif how == "finish":
            ending = writes.ending(run, Status.COMPLETED)
            self.world.do(writes.finish(self.world, [ending]))
        elif how == "fail":
            self.world.do(writes.fail(self.world, run, self.topics.retries))
        elif how == "shut down":
            self.world.do(writes.shut_down(self.world, run))
        else:
            former = run.unanswered if how == "commit again" else None
            batch = former or writes.next_batch(run, 2, None)
            self.world.do(writes.commit(self.world, run, batch))

    @event(2, pick=picks)
    def heartbeat(self, pick: int) -> None:
        writes.heartbeat(self.world, self.workers, self._worker(pick))

    def _with_source(self, *, mine: bool | None = None) -> list[PlayedRun]:
        return [run for run in self._runs(mine=mine) if run.needs_source]

    def _able_to_store(self) -> list[PlayedRun]:
        able = self._in(Status.ACTIVE, Status.INIT_SHUTDOWN, Status.IN_SHUTDOWN_PROCESSING)
        return [run for run in able if run.needs_source]

    def _commit(
        self, run: PlayedRun, length: int, gap: tuple[int, int] | None, *, lost: bool = False
    ) -> Deed[Status | None]:
        batch = run.unanswered or writes.next_batch(run, length, gap)
        return writes.commit(self.world, run, batch, answer_lost=lost)

    # --- ends of workers

    @event(
        4, pick=picks, seconds_ago=st.sampled_from([1.0, 20.0]), expires=flags, witness=witnesses
    )
    def lease_ends(
        self, pick: int, seconds_ago: float, expires: bool, witness: float | None
    ) -> None:
        worker = self._busy_worker(pick)
        if not worker.ended and not self.workers.let_lease_end(worker, seconds_ago):
            return
        if expires:
            self._expiry(worker, witness).do()

    @event(1, pick=picks, witness=witnesses)
    def expire(self, pick: int, witness: float | None) -> None:
        self._expiry(_pick(self.workers.all, pick), witness).do()

    def _expiry(self, worker: Played, witness: float | None) -> Expiry:
        """The expiry of an orchestrator that connected before or after a worker's last renewal."""
        since, until = None, worker.lease_until
        if witness is not None and until is not None:
            since = until - timedelta(seconds=LEASE_SECONDS - witness)
        return Expiry(self.world, self.workers.all, connected_since=since)

    @event(5, pick=picks, how=st.sampled_from(DEATHS), executing=st.lists(picks, max_size=2))
    def process_ends(self, pick: int, how: str, executing: list[int]) -> None:
        worker = self._busy_worker(pick)
        if how == "signs off":
            self.workers.sign_off(worker)
        elif how == "forgotten":
            self.workers.forget(worker)
        else:
            mine = [run.id for run in worker.runs if self._is_mine(run)][:1]
            executed = mine if how == "of its scenario" else [*map(self._one, executing)]
            Expiry(self.world, self.workers.all, only=worker, executing=executed).do()

    @event(2, pick=picks, slots=st.sampled_from([1, 4]))
    def become_a_suspect(self, pick: int, slots: int) -> None:
        """A scenario ends two processes, one after the other; then a worker claims."""
        runs = self._in(Status.ACTIVE)
        if not runs:
            return
        one = _pick(runs, pick).id
        for _ in range(2):
            holder = next(w for w in self.workers.all if w.id == self.world.expected[one].worker)
            if not self._killed_by(one, holder):
                return
            self.world.time_passes([one])
            source = self.world.expected[one].source
            camera = source if source in CAMERAS else None
            others = [other for other in self.world.expected if other != one]
            next_one = self.workers.register(slots=slots, source=camera)
            self.world.do(self.workers.claim(next_one, slots, skip=others))
            if self.world.expected[one].worker != next_one.id:
                return

    def _killed_by(self, one: int, worker: Played) -> bool:
        return Expiry(self.world, self.workers.all, only=worker, executing=[one]).do()

    @event(1, sure=st.integers(0, 5))
    def everybody_dies(self, sure: int) -> None:
        if sure == 5:
            everybody_dies(self.world, self.workers, CAMERAS)

    # --- users

    @event(2, wanted=st.lists(wishes, min_size=1, max_size=3))
    def create(self, wanted: list[Wish]) -> None:
        if len(self.world.expected) < MAX_SCENARIOS:
            self.world.do(users.create(self.world, wanted))

    @event(9, pick=picks, wanted=st.sampled_from([*ASKED, *Status]))
    def ask(self, pick: int, wanted: str) -> None:
        """A user asks for a change of any scenario, mostly for one that is allowed."""
        one = self._one(pick)
        able = {Status.FAILED} if wanted == "retry" else ENDED
        ended = [one.id for one in self.world.expected.values() if one.status in able]
        if wanted in STARTS and ended and pick % 4:
            one = _pick(ended, pick)
        if wanted == "stop what runs":
            running = self._in(*RUNNING)
            one = _pick(running, pick).id if running else one
        self.world.do(self._asked(one, wanted))

    def _asked(self, one: int, wanted: str) -> Deed[users.Answer]:
        match wanted:
            case "start" | "start over":
                return users.start(self.world, one, from_beginning=wanted == "start over")
            case "stop" | "stop what runs":
                return users.stop(self.world, one)
            case "retry":
                return users.retry(self.world, one)
            case "delete":
                return users.delete(self.world, one)
            case _:
                return users.request(self.world, one, Status(wanted))

    # --- orchestrators and topics

    @event(2, limit=st.sampled_from([1, 2, 1000]), fate=st.sampled_from(FATES))
    def announce(self, limit: int, fate: str) -> None:
        taken: list[int] = []
        self.world.do(orchestrators.take_due(self.world, limit, taken))
        if fate == "failed":
            self.world.do(orchestrators.announce_again(self.world, taken))
        if fate in ("delivered", "failed"):  # a message reported as failed may have arrived
            self.topics.announced += taken

    @event(2, message=picks, pick=picks, again=flags)
    def receive(self, message: int, pick: int, again: bool) -> None:
        if self.topics.receive(self.topics.announced, message, again=again):
            worker = self._worker(pick)
            self.world.do(self.workers.claim(worker, worker.slots))

    @event(2, message=picks, again=flags, foreign=st.lists(picks, max_size=2))
    def receive_retry(self, message: int, again: bool, foreign: list[int]) -> None:
        """Retry events may be lost, repeated, late, or sent without a reason."""
        ids = self.topics.receive(self.topics.retries, message, again=again)
        self.world.do(orchestrators.restart(self.world, [*ids, *map(self._one, foreign)]))

    @event(1, payload=st.one_of(st.none(), st.binary(max_size=12), st.sampled_from(ODD_PAYLOADS)))
    def receive_garbage(self, payload: bytes | None) -> None:
        self.topics.garbage(payload)

    @event(3, pick=picks, everywhere=flags)
    def time_passes(self, pick: int, everywhere: bool) -> None:
        ids = list(self.world.expected) if everywhere else [self._one(pick)]
        self.world.time_passes([one for one in ids if one in self.world.expected])

    # --- transactions that stay open

    @event(5, kind=st.sampled_from(KINDS), pick=picks, witness=st.sampled_from([None, -1.0]))
    def leave_open(self, kind: str, pick: int, witness: float | None) -> None:
        if len(self.world.open) >= MAX_OPEN:
            return
        deed, worker_id = self._to_be_left(kind, pick, witness)
        if deed is not None:
            self.world.leave_open(deed, worker_id)

    def _to_be_left(
        self, kind: str, pick: int, witness: float | None
    ) -> tuple[Deed[Any] | None, UUID | None]:
        match kind:
            case "claim":
                worker = self._worker(pick)
                return self.workers.claim(worker, worker.slots), worker.id
            case "stop":
                running = self._in(*RUNNING)
                one = _pick(running, pick).id if running else self._one(pick)
                return users.stop(self.world, one), None
            case "start":
                return users.start(self.world, self._one(pick), from_beginning=pick % 2 == 0), None
            case "take due":
                return orchestrators.take_due(self.world, 2, self.topics.announced), None
            case "restart":
                return orchestrators.restart(self.world, [self._one(pick)]), None
            case "expire":
                return self._expiry(_pick(self.workers.all, pick), witness).deed(), None
        runs = self._able_to_store() if kind == "commit" else self._runs(mine=True)
        if not runs:
            return None, None
        run = _pick(runs, pick)
        worker_id = run.fence.worker_id
        several = [one for one in self._runs(mine=True) if one.fence.worker_id == worker_id]
        match kind:
            case "commit":
                return self._commit(run, 2, None, lost=True), worker_id
            case "finish":
                some = [writes.ending(one, Status.COMPLETED) for one in several]
                return writes.finish(self.world, some), worker_id
            case "activate":
                return writes.activate(self.world, [one.fence for one in several]), worker_id
            case "fail":
                return writes.fail(self.world, run, self.topics.retries), worker_id
            case _:
                return writes.hand_over(self.world, [one.fence for one in several]), worker_id

    @event(1, pick=picks)
    def stop_the_process_in_the_middle_of_copy(self, pick: int) -> None:
        runs = self._able_to_store()
        if not runs or len(self.world.open) >= MAX_OPEN:
            return
        run = _pick(runs, pick)
        deed = self._commit(replace(run), 2, None)
        left = self.world.leave_open(deed, run.fence.worker_id)
        if left is not None:
            left.stop_in_copy(run.id, self.world.rows[run.id]["week"])

    @event(3, pick=picks, how=st.sampled_from(["commit", "commit", "roll back", "cut"]))
    def go_on(self, pick: int, how: str) -> None:
        if self.world.open:
            self.world.settle(_pick(self.world.open, pick), how)

    # --- all of it

    @rule(event=happenings())
    def happens(self, event: Happening) -> None:
        name, how = event
        getattr(self, name)(**how)


def _pick(those: Sequence[T], pick: int) -> T:
    return those[pick % len(those)]
