"""Everybody at once, in threads: no deadlock is made, and a worker that lives loses nothing."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import psycopg
import pytest
from sqlalchemy import Connection, text

from tests.model.expected import batch_of
from tests.model.invariants import Invariants
from tests.model.world import COUNT, LOOK
from vidan.db.session import Database
from vidan.domain.status import STOPPING, Status
from vidan.errors import NotAllowedError, NotFoundError
from vidan.protocol import (
    announcements,
    claims,
    commits,
    creation,
    expiry,
    heartbeats,
    lifecycle,
    partitions,
    tasks,
)
from vidan.protocol.claims import Claimant, Claimed
from vidan.protocol.creation import NewScenario
from vidan.protocol.lifecycle import Ending
from vidan.services import steering, workers

SECONDS = 8.0
QUEUES = ("north", "south")
KEYS = 300
MOST = 300
T = TypeVar("T")


class Crowd:
    """Threads that do what the product's processes do, through `retrying` as they do."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.until = time.monotonic() + SECONDS
        self.errors: list[str] = []
        self.done = 0

    def run(self, actors: Sequence[Callable[[random.Random], None]]) -> None:
        """Let each act again and again, in a thread of its own."""
        threads = [
            threading.Thread(target=self._act, args=(actor, random.Random(number)))
            for number, actor in enumerate(actors)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _act(self, actor: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            while time.monotonic() < self.until and not self.errors:
                actor(chance)
                self.done += 1
        except Exception as error:
            self.errors.append(f"{actor}: {type(error).__name__}: {error}")

    def do(self, work: Callable[[Connection], T]) -> T:
        """Call it as the product does: `retrying` hides all conflicts."""
        return self.database.retrying(work)

    def some_ids(self, chance: random.Random, count: int) -> list[int]:
        """Ids of scenarios, in no order."""
        with self.database.begin() as connection:
            found = list(
                connection.execute(text("SELECT id FROM scenarios WHERE key IS NULL")).scalars()
            )
        return chance.sample(found, min(count, len(found)))

    # --- the actors

    def user(self, chance: random.Random) -> None:
        """Creates with keys in any order, starts, stops, deletes."""
        if len(self.some_ids(chance, MOST)) < MOST:
            news = [
                NewScenario(task=task, queue=chance.choice(QUEUES))
                for task in ("detect", COUNT.name) * 10
            ]
            self.do(lambda c: creation.create_many(c, news))
        for one in self.some_ids(chance, 10):
            ask = chance.choice(
                [
                    lambda c, one=one: steering.stop(c, one),
                    lambda c, one=one: steering.delete(c, one),
                    lambda c, one=one: steering.start(c, one),
                    lambda c, one=one: steering.start(c, one, from_beginning=True),
                    lambda c, one=one: steering.delete(c, one),
                ]
            )
            try:
                self.do(ask)
            except (NotAllowedError, NotFoundError):
                continue

    def creator(self, chance: random.Random) -> None:
        """Creates with the keys that others create with at that moment, in another order."""
        now = int(time.monotonic() * 3)
        news = [
            NewScenario(source="/a.mp4", key=f"{now}-{number}", status=Status.INACTIVE)
            for number in chance.sample(range(KEYS), KEYS // 2)
        ]
        created = self.do(lambda c: creation.create_many(c, news))
        assert len({one.id for one in created}) == len(news)
        for one in created[:3]:
            self.do(
                lambda c, one=one: c.execute(  # type: ignore[misc]
                    text("DELETE FROM scenarios WHERE id = :id"), {"id": one.id}
                )
            )

    def orchestrator(self, chance: random.Random) -> None:
        """Announces, fails to, restarts, expires."""
        taken = self.do(lambda c: announcements.take_due(c, 50))
        chance.shuffle(taken)
        self.do(lambda c: announcements.announce_again(c, taken, delay=0.0))
        ids = self.some_ids(chance, 50)
        self.do(lambda c: announcements.restart(c, ids))
        self.do(lambda c: expiry.expire(c, actor="orchestrator"))
        self.do(lambda c: workers.forget_gone(c, days=0))
        self.do(partitions.ensure_ahead)

    def mortal(self, chance: random.Random) -> None:
        """A worker that claims, begins and dies; sometimes its supervisor sees it."""
        claimant = register(self)
        claimed = self.do(lambda c: claims.claim(c, claimant, 8))
        fences = [one.fence for one in claimed]
        chance.shuffle(fences)
        self.do(lambda c: lifecycle.start(c, fences, actor="mortal"))
        if chance.random() < 0.5:
            executing = [fence.scenario_id for fence in fences[:1]]
            while not self.do(
                lambda c: expiry.release_worker(
                    c, claimant.worker_id, actor="supervisor", executing=executing
                )
            ):
                pass
        else:
            self.do(
                lambda c: c.execute(
                    text("UPDATE workers SET lease_until = now() WHERE id = :id"),
                    {"id": claimant.worker_id},
                )
            )
        for fence in fences:  # the zombie continues
            self.do(lambda c, fence=fence: lifecycle.fail(c, fence, "late", actor="mortal"))  # type: ignore[misc]


def register(crowd: Crowd) -> Claimant:
    """Enter a worker whose lease lasts."""
    claimant = Claimant(uuid.uuid4(), "w", QUEUES, ("detect", COUNT.name), suspects=True)
    crowd.do(
        lambda c: heartbeats.register(
            c,
            heartbeats.Registration(
                claimant.worker_id, "w", "test", 1, "cpu", 8, QUEUES, claimant.tasks
            ),
        )
    )
    return claimant


class Immortal:
    """A worker whose lease never ends: it must keep its scenarios until it releases them."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.claimant = register(crowd)

    def __call__(self, chance: random.Random) -> None:
        do, name = self.crowd.do, self.claimant.name
        me = self.claimant.worker_id
        beat = do(lambda c: heartbeats.beat(c, me, state="busy", fps=1.0, count=True))
        assert beat is not None
        assert beat.held == []
        assert beat.live is not None
        assert beat.live >= 1
        claimed = do(lambda c: claims.claim(c, self.claimant, 8))
        chance.shuffle(claimed)
        fences = [one.fence for one in claimed]
        ids = {fence.scenario_id for fence in fences}
        assert set(do(lambda c: lifecycle.start(c, fences, actor=name))) == ids
        for one in claimed:
            if one.needs_source:
                self._store(one)
        chance.shuffle(fences)
        third = len(fences) // 3
        back, failing, ending = fences[:third], fences[third : third + 1], fences[third + 1 :]
        assert do(lambda c: lifecycle.hand_over(c, back, reason="back", actor=name)) == {
            fence.scenario_id for fence in back
        }
        for fence in failing:
            assert do(lambda c, f=fence: lifecycle.fail(c, f, "e", actor=name, delay=0.0))  # type: ignore[misc]
        endings = [
            Ending(fence, chance.choice([Status.COMPLETED, Status.FAILED]), error="e")
            for fence in ending
        ]
        assert do(lambda c: lifecycle.finish(c, endings, actor=name)) == {
            fence.scenario_id for fence in ending
        }

    def _store(self, one: Claimed) -> None:
        checkpoint = one.checkpoint
        done = one.state.get("done", 0)
        for moved in range(2):
            done += 5
            batch = batch_of(checkpoint, 5, None, {"done": done}, clear=moved > 0)
            status = self.crowd.do(
                lambda c, batch=batch: commits.commit(c, one.fence, batch)  # type: ignore[misc]
            )
            assert status is Status.ACTIVE or status in STOPPING
            checkpoint += 5


@pytest.fixture
def crowd(database_url: str) -> Iterator[Crowd]:
    """A crowd on a fresh database."""
    database = Database(database_url, guarded=True, pool_size=16)
    with database.begin() as connection:
        tasks.publish(connection, [COUNT])
    yield Crowd(database)
    database.close()


def test_no_deadlock_is_made_and_none_comes_out(crowd: Crowd, database_url: str) -> None:
    crowd.run(
        [
            *(Immortal(crowd) for _ in range(3)),
            *(crowd.mortal for _ in range(2)),
            *(crowd.orchestrator for _ in range(2)),
            *(crowd.user for _ in range(2)),
            *(crowd.creator for _ in range(2)),
        ]
    )
    assert crowd.errors == []
    assert crowd.done > 50
    with crowd.database.begin() as connection:
        rows = {row["id"]: row for row in connection.execute(text(LOOK)).mappings()}
    assert rows
    Invariants().look({}, rows)
    crowd.database.close()  # a session that ends tells what it counted
    assert deadlocks(database_url) == 0


def deadlocks(url: str) -> int:
    """Return how many deadlocks the server has ended in this database, once all have told."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        patience = time.monotonic() + 10
        while connection.execute(others).fetchone() != (0,) and time.monotonic() < patience:
            time.sleep(0.05)
        found = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert found is not None
    return int(found[0])
