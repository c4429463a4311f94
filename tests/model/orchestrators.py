"""What orchestrators and supervisors do in the model test, and the topics between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from tests.model.expected import Announcement, Expected
from tests.model.played import Played
from tests.model.world import Change, Deed, World
from vidan import inbox
from vidan.broker.base import Received
from vidan.broker.messages import RETRY_TOPIC, SCENARIOS_TOPIC, encode
from vidan.domain.status import RUNNING, Status
from vidan.domain.worker import LEASE_SECONDS
from vidan.protocol import announcements, expiry
from vidan.protocol.changes import Moved
from vidan.services import dead_letters

_FIRST_WAIT = (1.0, 2.0)
"""Shortest and longest pause, in seconds, after the second death of a scenario.

Each further death doubles both.
"""


def take_due(world: World, limit: int, topic: list[int]) -> Deed[list[int]]:
    """Take the due announcements, and add them to `topic`."""

    def judge(taken: list[int]) -> Change:
        due = [
            one
            for one in world.expected.values()
            if one.announcement is Announcement.DUE and one.id not in world.locked
        ]
        assert set(taken) <= {one.id for one in due}
        assert len(taken) == len(set(taken)) == min(limit, len(due))
        moments = {one: world.rows[one]["announce_at"] for one in world.rows}
        left = [moments[one.id] for one in due if one.id not in taken]
        assert not left or all(moments[one] <= min(left) for one in taken)

        def change() -> None:
            for one in taken:
                world.expected[one].announcement = Announcement.NONE
            topic.extend(taken)

        return change

    return Deed("take due", lambda c: announcements.take_due(c, limit), judge)


def announce_again(world: World, ids: Sequence[int]) -> Deed[None]:
    """Plan announcements again that could not be delivered."""

    def judge(_: None) -> Change:
        def change() -> None:
            for one in ids:
                if one in world.expected:
                    world.expected[one].announce_again()

        return change

    return Deed(
        f"announce again {list(ids)}",
        lambda c: announcements.announce_again(c, ids, delay=5.0),
        judge,
        waits_for=_waiting(world, ids),
        delays=True,
    )


def restart(world: World, ids: Sequence[int]) -> Deed[set[int]]:
    """Read retry events with these ids, whichever process sent them."""

    def judge(restarted: set[int]) -> Change:
        found = [world.expected[one] for one in set(ids) if one in world.expected]
        assert restarted == {one.id for one in found if one.status is Status.INIT_STARTUP}
        return lambda: [one.restart() for one in found]

    return Deed(
        f"restart {list(ids)}",
        lambda c: announcements.plan_retries(c, ids),
        judge,
        waits_for=_waiting(world, ids),
    )


def _waiting(world: World, ids: Collection[int]) -> list[int]:
    return [
        one
        for one in ids
        if one in world.expected and world.expected[one].status is Status.INIT_STARTUP
    ]


class Expiry:
    """A round of expiry, or the release by a supervisor, until no row is left to release."""

    def __init__(
        self,
        world: World,
        workers: Sequence[Played],
        *,
        connected_since: datetime | None = None,
        only: Played | None = None,
        executing: Collection[int] = (),
    ) -> None:
        self.world = world
        self.workers = {one.id: one for one in workers}
        self.connected_since = connected_since
        self.only = only
        self.executing = set(executing)

    def do(self) -> bool:
        """Do a round, and a second one if sessions had to be ended that may have locked rows.

        Returns False if the round would have to wait for a lock.
        """
        world = self.world
        sessions = [left for left in world.open if self._ends(left.worker_id)]
        if not world.do(self._round(unsure=bool(sessions))):
            return False
        if sessions:
            world.were_ended(sessions)
            assert world.do(self._round(unsure=False))
        return True

    def deed(self) -> Deed[list[Moved]] | None:
        """Return a round for a transaction that stays open, or None if it would end sessions."""
        if any(self._ends(left.worker_id) for left in self.world.open):
            return None
        return self._round(unsure=False)

    def _ends(self, worker_id: UUID | None) -> bool:
        """Whether the round first ends the sessions of this worker."""
        if worker_id is None or not self._is_over(worker_id):
            return False
        holds = any(one.worker == worker_id for one in self.world.expected.values())
        worker = self.workers[worker_id]
        return not worker.row_gone and (not worker.called_gone or holds)

    def _is_over(self, worker_id: UUID) -> bool:
        worker = self.workers[worker_id]
        return worker.ended or worker is self.only

    def _round(self, *, unsure: bool) -> Deed[list[Moved]]:
        """Return one round; with `unsure` it may leave rows that ended sessions had locked."""

        def work(connection: Connection) -> list[Moved]:
            if self.only is None:
                return expiry.expire(
                    connection, actor="orchestrator", connected_since=self.connected_since
                )
            expiry.release_worker(
                connection, self.only.id, actor="supervisor", executing=self.executing
            )
            return []

        def judge(moved: list[Moved]) -> Change:
            over = [
                one
                for one in self.world.expected.values()
                if one.worker is not None
                and self._is_over(one.worker)
                and (self.only is None or one.worker == self.only.id)
            ]
            locked = {one.id for one in over if one.id in self.world.locked}
            if self.only is None:
                found = {one.id: one.to_status for one in moved}
            else:  # the supervisor learns only whether a row is left
                found = self._released(over)
            assert {one.id for one in over} - locked <= set(found), "a held row was left"
            assert set(found) <= {one.id for one in over if unsure or one.id not in locked}

            def change() -> None:
                if self.only is not None:
                    self.only.end_lease(None)
                for one in over:
                    if one.id in found:
                        self._release(one)
                        assert found[one.id] is one.status
                for worker in self.workers.values():
                    worker.called_gone |= worker.ended

            return change

        waits_for = [] if self.only is None else [self.only.id]
        return Deed("expire", work, judge, waits_for, delays=True)

    def _released(self, over: list[Expected]) -> dict[int, Status]:
        with self.world.database.begin() as connection:
            return {
                row.id: Status(row.status)
                for row in connection.execute(
                    text(
                        "SELECT id, status FROM scenarios"
                        " WHERE id = ANY(:ids) AND worker_id IS NULL"
                    ),
                    {"ids": [one.id for one in over]},
                )
            }

    def _release(self, one: Expected) -> None:
        assert one.worker is not None
        if not self._died(one, self.workers[one.worker]):
            one.hand_over()
            return
        before = one.crashes
        one.die()
        if before == 0:
            assert one.id not in self.world.waits
        elif one.status is Status.INIT_STARTUP:
            shortest, longest = (2 ** (before - 1) * edge for edge in _FIRST_WAIT)
            assert shortest - 0.5 <= self.world.waits[one.id] <= longest

    def _died(self, one: Expected, worker: Played) -> bool:
        """Whether the death is charged: the run was executed, or active while a witness watched."""
        if one.status not in RUNNING:
            return False
        if one.id in self.executing:
            return True
        if self.connected_since is None or worker.lease_until is None:
            return False
        begun = worker.lease_until.timestamp() - LEASE_SECONDS
        return one.status is Status.ACTIVE and begun >= self.connected_since.timestamp()


class Topics:
    """The two topics of a broker that loses, repeats and reorders messages."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.announced: list[int] = []
        self.retries: list[int] = []
        self.offset = 0

    def receive(self, topic: list[int], pick: int, *, again: bool) -> list[int]:
        """Read a message from any place of the topic; with `again` it stays there."""
        if not topic:
            return []
        place = pick % len(topic)
        scenario_id = topic[place] if again else topic.pop(place)
        name = RETRY_TOPIC if topic is self.retries else SCENARIOS_TOPIC
        return inbox.scenario_ids(
            self.world.database, [self._message(name, encode(scenario_id), scenario_id)]
        )

    def garbage(self, payload: bytes | None) -> None:
        """Receive an unreadable message twice: it is kept once, and the partition moves on."""
        message = self._message(SCENARIOS_TOPIC, payload, 0)
        before = self._letters()
        ids = inbox.scenario_ids(self.world.database, [message, message])
        with self.world.database.begin() as connection:
            newest = dead_letters.find(connection, limit=1)
        if ids:  # by chance the payload is a message
            assert self._letters() == before
        else:
            assert self._letters() == before + 1
            assert newest[0].payload == payload
        self.world.check()

    def _letters(self) -> int:
        with self.world.database.begin() as connection:
            return len(dead_letters.find(connection, limit=10_000))

    def _message(self, topic: str, payload: bytes | None, key: int) -> Received:
        self.offset += 1
        return Received(topic, 0, self.offset, 1_700_000_000_000, b"%d" % key, payload)
