"""What users do in the model test: they create, start, stop, retry and delete scenarios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from tests.model.expected import Announcement, Expected, Refused
from tests.model.world import COUNT, Change, Deed, World
from vidan.domain.status import ENDED, Status
from vidan.errors import NotAllowedError, NotFoundError
from vidan.protocol import creation
from vidan.protocol.creation import Created, NewScenario
from vidan.services import steering

MAX_CRASHES = 2


@dataclass(frozen=True)
class Wish:
    """A scenario that a user wants to create."""

    task: str = "detect"
    source: str | None = "/a.mp4"
    key: str | None = None
    queue: str = "north"
    priority: int = 0
    inactive: bool = False
    later: bool = False
    max_attempts: int = 2

    def new(self) -> NewScenario:
        """Return the arguments of `create`."""
        return NewScenario(
            task=self.task,
            source=None if self.task == COUNT.name else self.source,
            key=self.key,
            key_reuse=self.key is not None,  # the wishes for a key differ in their work
            queue=self.queue,
            priority=self.priority,
            status=Status.INACTIVE if self.inactive else Status.INIT_STARTUP,
            not_before=datetime.now(UTC) + timedelta(hours=1) if self.later else None,
            max_attempts=self.max_attempts,
        )

    def expected(self, scenario_id: int) -> Expected:
        """Return the scenario that `create` should make."""
        new = self.new()
        return Expected(
            id=scenario_id,
            key=self.key,
            queue=self.queue,
            priority=self.priority,
            needs_source=self.task != COUNT.name,
            source=new.source,
            status=new.status,
            max_attempts=self.max_attempts,
            max_crashes=MAX_CRASHES,
            due=not self.later,
        )


def create(world: World, wishes: Sequence[Wish]) -> Deed[list[Created]]:
    """Create several scenarios at once; for an existing key the answer names its scenario."""

    def work(connection: Connection) -> list[Created]:
        created = creation.create_many(connection, [wish.new() for wish in wishes])
        connection.execute(
            text("UPDATE scenarios SET max_crashes = :max WHERE id = ANY(:ids)"),
            {"max": MAX_CRASHES, "ids": [one.id for one in created if one.new]},
        )
        return created

    def judge(created: list[Created]) -> Change:
        keys = {one.key: one.id for one in world.expected.values() if one.key is not None}
        made: dict[int, Expected] = {}
        for wish, one in zip(wishes, created, strict=True):
            assert one.new == (wish.key not in keys)
            if one.new:
                assert one.id not in world.expected
                made[one.id] = wish.expected(one.id)
                if wish.key is not None:
                    keys[wish.key] = one.id
            else:
                assert wish.key is not None and one.id == keys[wish.key]
        assert list(made) == sorted(made), "ids follow the order given"
        return lambda: world.expected.update(made)

    return Deed(f"create {wishes}", work, judge)


Answer = bool | Refused


def _ask(
    world: World,
    scenario_id: int,
    what: str,
    ask: Callable[[Connection], bool],
    expect: Callable[[Expected], Answer],
) -> Deed[Answer]:
    def work(connection: Connection) -> Answer:
        try:
            return ask(connection)
        except NotAllowedError:
            return Refused.NOT_ALLOWED
        except NotFoundError:
            return Refused.NOT_FOUND

    def judge(answer: Answer) -> Change | None:
        expected = world.expected.get(scenario_id)
        if expected is None:
            assert answer is Refused.NOT_FOUND
            return None

        def change() -> None:
            assert expect(expected) == answer, f"{what} of {scenario_id} was answered {answer}"

        return change

    return Deed(f"{what} {scenario_id}", work, judge, waits_for=[scenario_id])


def start(world: World, scenario_id: int, *, from_beginning: bool = False) -> Deed[Answer]:
    """Start a scenario at its checkpoint, or from the beginning."""
    return _ask(
        world,
        scenario_id,
        "start",
        lambda c: steering.start(c, scenario_id, from_beginning=from_beginning),
        lambda expected: expected.ask_start(from_beginning=from_beginning),
    )


def stop(world: World, scenario_id: int) -> Deed[Answer]:
    """Stop a scenario."""
    return _ask(
        world,
        scenario_id,
        "stop",
        lambda c: steering.stop(c, scenario_id),
        Expected.ask_stop,
    )


def retry(world: World, scenario_id: int) -> Deed[Answer]:
    """Let a failed scenario resume."""
    return _ask(
        world,
        scenario_id,
        "retry",
        lambda c: steering.retry(c, scenario_id),
        Expected.ask_retry,
    )


def request(world: World, scenario_id: int, wanted: Status) -> Deed[Answer]:
    """Request a status, as the HTTP interface does."""

    def expect(expected: Expected) -> Answer:
        if wanted in {Status.ACTIVE, Status.INIT_STARTUP}:
            return expected.ask_start()
        if wanted in {Status.INACTIVE, Status.INIT_SHUTDOWN}:
            return expected.ask_stop()
        return Refused.NOT_ALLOWED

    deed = _ask(
        world,
        scenario_id,
        f"request {wanted}",
        lambda c: steering.request(c, scenario_id, wanted),
        expect,
    )
    if wanted in steering.REQUESTABLE:
        return deed
    deed.judge = lambda answer: None if answer is Refused.NOT_ALLOWED else _wrong(answer)
    return deed


def _wrong(answer: Answer) -> Change:
    raise AssertionError(f"only workers may set this status, and yet the answer was {answer}")


def delete(world: World, scenario_id: int) -> Deed[Answer]:
    """Delete a scenario: if it has ended, no row of it remains."""

    def ask(connection: Connection) -> bool:
        steering.delete(connection, scenario_id)
        return not connection.execute(
            text(
                "SELECT EXISTS (SELECT 1 FROM predictions WHERE scenario_id = :id) OR"
                " EXISTS (SELECT 1 FROM gaps WHERE scenario_id = :id) OR"
                " EXISTS (SELECT 1 FROM transitions WHERE scenario_id = :id) OR"
                " EXISTS (SELECT 1 FROM scenarios WHERE id = :id)"
            ),
            {"id": scenario_id},
        ).scalar()

    def expect(expected: Expected) -> Answer:
        if expected.status not in ENDED:
            return Refused.NOT_ALLOWED
        world.deleted.append(scenario_id)
        del world.expected[scenario_id]
        return True

    return _ask(world, scenario_id, "delete", ask, expect)


def announced(world: World) -> set[int]:
    """Return the scenarios whose announcement is due and whose rows are not locked."""
    return {
        one.id
        for one in world.expected.values()
        if one.announcement is Announcement.DUE and one.id not in world.locked
    }
