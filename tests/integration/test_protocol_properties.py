"""The protocol under any order of events: two workers, a user, deaths, lost answers, zombies.

Whatever happens, in whatever order: every change of status is allowed and logged, a stop is never
undone, and each frame up to the checkpoint is stored exactly once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.support.played_worker import LABELS, PlayedWorker
from vidan.db.session import Database
from vidan.domain import ALLOWED, ENDED, HELD, Status
from vidan.errors import LeaseLost, NotAllowedError
from vidan.services import announcements, expiry, leases, predictions, requests, runs, scenarios
from vidan.services.leases import Claimed, Fence
from vidan.services.scenarios import NewScenario

Event = tuple[str, int]
WORKERS = 2


class World:
    """One scenario in a queue of its own, and all who do something with it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue = uuid.uuid4().hex
        with database.begin() as connection:
            new = NewScenario(source="/a.mp4", queue=self.queue, max_attempts=2)
            self.id = scenarios.create(connection, new).id
            connection.execute(
                text("UPDATE scenarios SET max_crashes = 2 WHERE id = :id"), {"id": self.id}
            )
        self.played = [self._register() for _ in range(WORKERS)]
        # what each believes to hold, also long after it has lost it
        self.believed: list[tuple[Fence, int] | None] = [None] * WORKERS

    def _register(self) -> PlayedWorker:
        return PlayedWorker(self.database, queues=(self.queue,), suspects=True)

    def do(self, event: Event) -> None:
        """Let something happen; what is refused changes nothing."""
        name, who = event
        with suppress(NotAllowedError, LeaseLost):
            getattr(self, name)(who)

    def _in_one(self, work: Callable[[Connection], Any]) -> Any:
        return self.database.retrying(work)

    # --- a worker

    def claim(self, who: int) -> None:
        for claimed in self.played[who].take():
            self.believed[who] = (claimed.fence, claimed.checkpoint)
            assert_goes_on_where_it_was(self, claimed)

    def activate(self, who: int) -> None:
        self._fenced(who, lambda c, fence: runs.start(c, [fence], actor="w"))

    def store(self, who: int, *, twice: bool = False) -> None:
        if (believed := self.believed[who]) is None:
            return
        fence, checkpoint = believed
        rows = [
            predictions.Row(frame, frame, [0], [1.0], [0.0] * 4)
            for frame in (checkpoint, checkpoint + 1)
        ]
        batch = predictions.Batch(checkpoint, checkpoint + 2, None, "{}", LABELS, rows)
        for _ in range(2 if twice else 1):
            self._in_one(lambda c: predictions.commit(c, fence, batch))
        self.believed[who] = (fence, checkpoint + 2)

    def store_with_lost_answer(self, who: int) -> None:
        self.store(who, twice=True)

    def let_go(self, who: int) -> None:
        self._fenced(who, lambda c, fence: runs.shutting_down(c, fence, actor="w"))
        self._finish(who, Status.INACTIVE)

    def complete(self, who: int) -> None:
        self._finish(who, Status.COMPLETED)

    def reject(self, who: int) -> None:
        self._finish(who, Status.FAILED)

    def fail(self, who: int) -> None:
        self._fenced(who, lambda c, fence: runs.fail(c, fence, "e", actor="w", delay=0.0))

    def hand_over(self, who: int) -> None:
        self._fenced(
            who, lambda c, fence: leases.hand_over(c, [fence], reason="leaving", actor="w")
        )

    def _finish(self, who: int, status: Status) -> None:
        self._fenced(who, lambda c, f: runs.finish(c, [runs.Ending(f, status)], actor="w"))

    def _fenced(self, who: int, work: Callable[[Connection, Fence], Any]) -> None:
        if (believed := self.believed[who]) is not None:
            self._in_one(lambda c: work(c, believed[0]))

    # --- deaths

    def lose_lease(self, who: int) -> None:
        self.played[who].let_lease_end()
        self._in_one(lambda c: expiry.expire(c, actor="orchestrator"))
        self.played[who] = self._register()  # it goes on believing that it holds what it held

    def die(self, who: int) -> None:
        worker_id = self.played[who].id
        executing = [self.id] if self.believed[who] is not None else []
        self._in_one(
            lambda c: expiry.release_worker(c, worker_id, actor="supervisor", executing=executing)
        )
        self.played[who] = self._register()

    # --- user and orchestrator

    def ask_start(self, _: int) -> None:
        self._in_one(lambda c: requests.start(c, self.id))

    def ask_stop(self, _: int) -> None:
        self._in_one(lambda c: requests.stop(c, self.id))

    def ask_retry(self, _: int) -> None:
        self._in_one(lambda c: requests.retry(c, self.id))

    def ask_again(self, _: int) -> None:
        self._in_one(lambda c: requests.start(c, self.id, from_beginning=True))

    def announce(self, _: int) -> None:
        self._in_one(announcements.take_due)

    def announce_again(self, _: int) -> None:
        self._in_one(lambda c: announcements.announce_again(c, [self.id]))

    def restart(self, _: int) -> None:
        self._in_one(lambda c: announcements.restart(c, [self.id]))

    def wait(self, _: int) -> None:
        self._in_one(
            lambda c: c.execute(
                text("UPDATE scenarios SET not_before = least(not_before, now()) WHERE id = :id"),
                {"id": self.id},
            )
        )


def assert_goes_on_where_it_was(world: World, claimed: Claimed) -> None:
    with world.database.begin() as connection:
        assert scenarios.get(connection, world.id).checkpoint == claimed.checkpoint


def assert_sound(world: World) -> None:
    with world.database.begin() as connection:
        row = connection.execute(
            text("SELECT * FROM scenarios WHERE id = :id"), {"id": world.id}
        ).one()
        history = scenarios.history(connection, world.id)
        stored = [one.frame for one in predictions.read_after(connection, world.id, -1)]
    status = Status(row.status)
    # each frame up to the checkpoint once, none behind it
    assert stored == list(range(row.checkpoint))
    assert row.frames_done == row.checkpoint
    # every change is logged, in a chain, and allowed
    assert history[0].from_status is None
    assert history[-1].to_status is status
    for before, after in pairwise(history):
        assert after.from_status is before.to_status
        assert after.to_status in ALLOWED[before.to_status]
    # a row is held, ended and announced as its status says
    assert (row.worker_id is not None) == (status in HELD)
    assert (row.ended_at is not None) == (status in ENDED)
    assert row.announce_at is None or status is Status.INIT_STARTUP
    assert row.announce_at is None or row.announce_at >= row.not_before
    # budgets: what is spent has failed
    assert row.attempts <= row.max_attempts + 1
    assert row.crashes <= row.max_crashes + 1
    if row.attempts > row.max_attempts or row.crashes > row.max_crashes:
        assert status in ENDED


EVENTS = [name for name in vars(World) if not name.startswith("_") and name != "do"]
events = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.integers(0, WORKERS - 1)), min_size=1, max_size=40
)
# half of what happens is what usually does, so that runs get somewhere
usual = st.sampled_from(["claim", "activate", "store", "wait"])
mixed = st.lists(
    st.tuples(st.one_of(usual, st.sampled_from(EVENTS)), st.integers(0, WORKERS - 1)),
    min_size=10,
    max_size=60,
)


def story(told: str) -> list[Event]:
    """Events as they are told: "claim 0, store 0"."""
    return [(name, int(who)) for name, who in (event.split() for event in told.split(","))]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.one_of(events, mixed))
@example(story("claim 0, ask_stop 0, activate 0, complete 0"))
@example(
    story(
        "claim 0, activate 0, store 0, lose_lease 0, claim 1, activate 1, store 0, store 1,"
        " complete 0, complete 1"
    )
)
@example(story("claim 0, activate 0, ask_stop 0, die 0, restart 0"))
@example(
    story(
        "claim 0, activate 0, store 0, complete 0, ask_again 0, store 0, claim 1, activate 1,"
        " store_with_lost_answer 1"
    )
)
def test_whatever_happens_nothing_is_lost_or_stored_twice(
    database: Database, happening: list[Event]
) -> None:
    world = World(database)
    for event in happening:
        world.do(event)
        assert_sound(world)
