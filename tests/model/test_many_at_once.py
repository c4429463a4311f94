"""All actors at once, in threads: no deadlock occurs, and a living worker loses no scenario."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import psycopg
import pytest
from sqlalchemy import Connection, text

from tests.model.expected import batch_of
from tests.model.invariants import Invariants
from tests.model.world import ALL_ROWS, COUNT
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
from vidan.protocol.definitions import UNCHECKED
from vidan.protocol.lifecycle import Ending
from vidan.protocol.tasks import DETECT
from vidan.services import steering, workers

SECONDS = 8.0
QUEUES = ("north", "south")
KEYS = 300
MOST = 300
T = TypeVar("T")
P = ParamSpec("P")


def start_over(connection: Connection, scenario_id: int) -> None:
    """Start a scenario from the beginning."""
    steering.start(connection, scenario_id, from_beginning=True)


ASKED: Sequence[Callable[[Connection, int], object]] = (
    steering.stop,
    steering.delete,
    steering.start,
    start_over,
    steering.delete,
)
"""What users ask for; a function that stands twice is chosen twice as often."""


class Crowd:
    """Threads that do what the processes of the product do, through `retrying` as they do."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.until = time.monotonic() + SECONDS
        self.errors: list[str] = []
        self.done = 0

    def run(self, actors: Sequence[Callable[[random.Random], None]]) -> None:
        """Let each actor act repeatedly, in a thread of its own."""
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

    def do(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do it as the product does: `retrying` lets no conflict out."""
        return self.database.retrying(work, *args, **kwargs)

    def some_ids(self, chance: random.Random, count: int) -> list[int]:
        """Return ids of scenarios, in random order."""
        with self.database.begin() as connection:
            found = list(
                connection.execute(text("SELECT id FROM scenarios WHERE key IS NULL")).scalars()
            )
        return chance.sample(found, min(count, len(found)))

    # --- the actors

    def user(self, chance: random.Random) -> None:
        """Creates, starts, stops and deletes scenarios."""
        if len(self.some_ids(chance, MOST)) < MOST:
            news = [
                NewScenario(task=task, queue=chance.choice(QUEUES))
                for task in ("detect", COUNT.name) * 10
            ]
            self.do(creation.create_many, news)
        for one in self.some_ids(chance, 10):
            try:
                self.do(chance.choice(ASKED), one)
            except (NotAllowedError, NotFoundError):
                continue

    def creator(self, chance: random.Random) -> None:
        """Creates with keys that other creators use at the same moment, in another order."""
        now = int(time.monotonic() * 3)
        news = [
            NewScenario(source="/a.mp4", key=f"{now}-{number}", status=Status.INACTIVE)
            for number in chance.sample(range(KEYS), KEYS // 2)
        ]
        created = self.do(creation.create_many, news)
        assert len({one.id for one in created}) == len(news)
        for one in created[:3]:
            self.do(execute, "DELETE FROM scenarios WHERE id = :id", one.id)

    def orchestrator(self, chance: random.Random) -> None:
        """Announces, fails to announce, restarts and expires."""
        taken = self.do(announcements.take_due, 50)
        chance.shuffle(taken)
        self.do(announcements.announce_again, taken, delay=0.0)
        ids = self.some_ids(chance, 50)
        self.do(announcements.plan_retries, ids)
        self.do(expiry.expire, actor="orchestrator")
        self.do(workers.forget_gone, days=0)
        self.do(partitions.ensure_ahead)

    def mortal(self, chance: random.Random) -> None:
        """A worker claims, begins and dies; sometimes its supervisor notices."""
        claimant = register(self)
        claimed = self.do(claims.claim, claimant, 8)
        fences = [one.fence for one in claimed]
        chance.shuffle(fences)
        self.do(lifecycle.start, fences, actor="mortal")
        if chance.random() < 0.5:
            executing = [fence.scenario_id for fence in fences[:1]]
            while not self.do(
                expiry.release_worker, claimant.worker_id, actor="supervisor", executing=executing
            ):
                pass
        else:
            ends = "UPDATE workers SET lease_until = now() WHERE id = :id"
            self.do(execute, ends, claimant.worker_id)
        for fence in fences:  # the zombie continues
            self.do(lifecycle.fail, fence, "late", actor="mortal")


def execute(connection: Connection, sql: str, row_id: int | uuid.UUID) -> None:
    """Execute a statement on the row with this id."""
    connection.execute(text(sql), {"id": row_id})


def register(crowd: Crowd) -> Claimant:
    """Register a worker whose lease lasts."""
    taken = {one.name: (UNCHECKED, one.definition) for one in (DETECT, COUNT)}
    claimant = Claimant(uuid.uuid4(), "w", QUEUES, tuple(taken), suspects=True, definitions=taken)
    registration = heartbeats.Registration(
        claimant.worker_id, "w", "test", 1, "cpu", 8, QUEUES, claimant.tasks
    )
    crowd.do(heartbeats.register, registration)
    return claimant


class Immortal:
    """A worker whose lease never ends: its scenarios must stay its own until it ends them."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.claimant = register(crowd)

    def __call__(self, chance: random.Random) -> None:
        do, name = self.crowd.do, self.claimant.name
        me = self.claimant.worker_id
        beat = do(heartbeats.beat, me, state="busy", fps=1.0, count=True)
        assert beat is not None
        assert beat.held == []
        assert beat.live is not None
        assert beat.live >= 1
        claimed = do(claims.claim, self.claimant, 8)
        chance.shuffle(claimed)
        fences = [one.fence for one in claimed]
        ids = {fence.scenario_id for fence in fences}
        assert set(do(lifecycle.start, fences, actor=name)) == ids
        for one in claimed:
            if one.needs_source:
                self._store(one)
        chance.shuffle(fences)
        third = len(fences) // 3
        back, failing, ending = fences[:third], fences[third : third + 1], fences[third + 1 :]
        assert do(lifecycle.hand_over, back, reason="back", actor=name) == {
            fence.scenario_id for fence in back
        }
        for fence in failing:
            assert do(lifecycle.fail, fence, "e", actor=name, delay=0.0)
        endings = [
            Ending(fence, chance.choice([Status.COMPLETED, Status.FAILED]), error="e")
            for fence in ending
        ]
        assert do(lifecycle.finish, endings, actor=name) == {fence.scenario_id for fence in ending}

    def _store(self, one: Claimed) -> None:
        checkpoint = one.checkpoint
        done = one.state.get("done", 0)
        for moved in range(2):
            done += 5
            batch = batch_of(checkpoint, 5, None, {"done": done}, clear=moved > 0)
            status = self.crowd.do(commits.commit, one.fence, batch)
            assert status is Status.ACTIVE or status in STOPPING
            checkpoint += 5


@pytest.fixture
def crowd(database_url: str) -> Iterator[Crowd]:
    """A crowd on a fresh database, with the task that needs no source."""
    database = Database(database_url, guarded=True, pool_size=16)
    with database.begin() as connection:
        tasks.publish(connection, [COUNT])
    yield Crowd(database)
    database.close()


@pytest.mark.slow
def test_no_deadlock_occurs_and_no_conflict_is_raised(crowd: Crowd, database_url: str) -> None:
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
        rows = {row["id"]: row for row in connection.execute(text(ALL_ROWS)).mappings()}
    assert rows
    Invariants().check({}, rows)
    crowd.database.close()  # a session reports its statistics when it ends
    assert deadlocks(database_url) == 0


def deadlocks(url: str) -> int:
    """Return how many deadlocks the server has ended in this database.

    All sessions must have reported before: the function waits until they have ended.
    """
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
