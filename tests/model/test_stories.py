"""Sequences of events that once went wrong, written by hand in the words of the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model import orchestrators, users, writes
from tests.model.orchestrators import Expiry
from tests.model.played import Played, PlayedRun, Workers
from tests.model.users import Wish
from tests.model.world import World
from vidan.db.session import Database
from vidan.domain.status import Status


class Story:
    """One scenario and two workers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.workers = Workers(world)
        self.first, self.second = self.workers.register(), self.workers.register()
        assert world.do(users.create(world, [Wish()]))
        (self.id,) = world.expected

    @property
    def status(self) -> Status:
        """The status of the scenario in the model."""
        return self.world.expected[self.id].status

    def claim(self, worker: Played) -> PlayedRun:
        """The worker claims the scenario."""
        assert self.world.do(self.workers.claim(worker, 1))
        return worker.runs[-1]

    def begin(self, worker: Played) -> PlayedRun:
        """The worker claims the scenario, and its run becomes active."""
        run = self.claim(worker)
        assert self.world.do(writes.activate(self.world, [run.fence]))
        return run

    def store(self, run: PlayedRun, *, answer_lost: bool = False) -> None:
        """Store two more frames, or again the two whose answer was lost."""
        batch = run.unanswered or writes.next_batch(run, 2, None)
        assert self.world.do(writes.commit(self.world, run, batch, answer_lost=answer_lost))

    def complete(self, run: PlayedRun) -> None:
        """The task has returned: complete the scenario."""
        assert self.world.do(writes.finish(self.world, [writes.ending(run, Status.COMPLETED)]))


@pytest.fixture
def story(database_url: str) -> Iterator[Story]:
    """A fresh world."""
    database = Database(database_url, guarded=True)
    world = World(database, database_url)
    yield Story(world)
    world.close()
    database.close()


def test_a_stop_that_came_before_the_run_began_and_the_task_returned(story: Story) -> None:
    run = story.claim(story.first)
    assert story.world.do(users.stop(story.world, story.id))
    assert story.world.do(writes.activate(story.world, [run.fence]))
    story.complete(run)
    assert story.status is Status.COMPLETED


def test_a_zombie_stores_nothing_and_completes_nothing(story: Story) -> None:
    zombie = story.begin(story.first)
    story.store(zombie)
    story.workers.let_lease_end(story.first)
    assert Expiry(story.world, story.workers.all).do()
    run = story.begin(story.second)
    story.store(zombie)
    story.store(run)
    story.complete(zombie)
    assert story.status is Status.ACTIVE
    story.complete(run)
    assert story.world.expected[story.id].frames == [0, 1, 2, 3]


def test_neither_a_death_nor_a_retry_event_undoes_a_stop(story: Story) -> None:
    story.begin(story.first)
    assert story.world.do(users.stop(story.world, story.id))
    dead = Expiry(story.world, story.workers.all, only=story.first, executing=[story.id])
    assert dead.do()
    assert story.world.do(orchestrators.restart(story.world, [story.id]))
    assert story.status is Status.INACTIVE


def test_a_start_from_the_beginning_lets_no_zombie_write(story: Story) -> None:
    zombie = story.begin(story.first)
    story.store(zombie)
    story.complete(zombie)
    assert story.world.do(users.start(story.world, story.id, from_beginning=True))
    story.store(zombie)
    run = story.begin(story.second)
    story.store(run, answer_lost=True)
    story.store(run)
    assert story.world.expected[story.id].frames == [0, 1]


def test_a_repeated_key_does_not_wait_for_a_change_of_the_scenario(
    story: Story,
) -> None:
    assert story.world.do(users.create(story.world, [Wish(key="k1", priority=1)]))
    assert story.world.leave_open(story.workers.claim(story.first, 1), story.first.id)
    assert story.world.do(users.create(story.world, [Wish(key="k1"), Wish()]))
