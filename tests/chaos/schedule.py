"""Which injury comes when and hits what: a pure function of the seed, so that runs repeat."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of injuries, by their names in the table."""

    WORKER_KILLED = "worker killed"
    SUPERVISOR_KILLED = "supervisor killed"
    ORCHESTRATOR_KILLED = "orchestrator killed"
    WORKER_STOPPED = "worker stopped past its lease"
    SUPERVISOR_TERMINATED = "supervisor terminated"
    BROKER_RESTARTED = "broker restarted"
    BROKER_KILLED = "broker killed"
    DATABASE_FAST = "database restarted, fast"
    DATABASE_IMMEDIATE = "database restarted, immediate"
    DATABASE_LONG = "database unavailable past the lease"
    KILLED_WHILE_AWAY = "worker killed, database unavailable"
    CONNECTIONS_FULL = "connection limit filled"
    COMMIT_ANSWER = "answer of a commit cut"
    CLAIM_ANSWER = "answer of a claim cut"
    ENDING_ANSWER = "answer of an ending cut"
    USER_STOP = "stopped by a user"
    USER_STOP_START = "stopped and started by a user"


DATABASE = frozenset(
    {
        Kind.DATABASE_FAST,
        Kind.DATABASE_IMMEDIATE,
        Kind.DATABASE_LONG,
        Kind.KILLED_WHILE_AWAY,
        Kind.CONNECTIONS_FULL,
    }
)
"""While these last, the database is unavailable."""

KILLS = frozenset({Kind.WORKER_KILLED, Kind.KILLED_WHILE_AWAY})
"""A worker dies, and the scenario that it executed is charged."""

OUTAGES = DATABASE | {Kind.BROKER_RESTARTED, Kind.BROKER_KILLED}
"""The recovery from these is measured from the return of the server."""

WEIGHTS = {
    Kind.WORKER_KILLED: 30,
    Kind.SUPERVISOR_KILLED: 8,
    Kind.ORCHESTRATOR_KILLED: 6,
    Kind.WORKER_STOPPED: 5,
    Kind.SUPERVISOR_TERMINATED: 6,
    Kind.BROKER_RESTARTED: 3,
    Kind.BROKER_KILLED: 3,
    Kind.DATABASE_FAST: 4,
    Kind.DATABASE_IMMEDIATE: 5,
    Kind.DATABASE_LONG: 1,
    Kind.KILLED_WHILE_AWAY: 3,
    Kind.CONNECTIONS_FULL: 4,
    Kind.COMMIT_ANSWER: 10,
    Kind.CLAIM_ANSWER: 4,
    Kind.ENDING_ANSWER: 4,
    Kind.USER_STOP: 2,
    Kind.USER_STOP_START: 5,
}

SECONDS_AWAY = {
    Kind.BROKER_RESTARTED: (0.0, 3.0),
    Kind.BROKER_KILLED: (0.0, 3.0),
    Kind.DATABASE_FAST: (0.0, 4.0),
    Kind.DATABASE_IMMEDIATE: (0.0, 4.0),
    Kind.DATABASE_LONG: (16.0, 20.0),
    Kind.KILLED_WHILE_AWAY: (0.5, 4.0),
    Kind.CONNECTIONS_FULL: (2.0, 6.0),
    Kind.WORKER_STOPPED: (16.0, 20.0),
}
"""Shortest and longest duration, in seconds; a lease lasts 15."""

PAUSES = (0.2, 3.0)
"""Shortest and longest pause, in seconds, before an injury."""
CALM = (4.0, 6.0)
"""The pause after an outage, so that its recovery is not disturbed by the next injury."""
SHORT_PAUSES = (0.1, 1.2)
"""The pauses of a short run."""
SHORT_OUTAGE = 0.4
"""The share of an outage's duration that a short run has time for."""


@dataclass(frozen=True, slots=True)
class Injury:
    """The injury of this number. `victim`, modulo the number of possible targets, chooses one."""

    number: int
    kind: Kind
    pause: float
    victim: int
    seconds: float

    def __str__(self) -> str:
        """One line for people."""
        lasts = f", {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.number}: after {self.pause:.1f} s: {self.kind} ({self.victim}{lasts})"


def plan(seed: int, kills: int, *, short: bool = False) -> list[Injury]:
    """Return `kills` injuries: first one of each kind, in random order, then kinds by weight.

    A `short` schedule begins with the kind that lasts longest, and leaves out the outage that is
    longer than a lease.
    """
    chance = random.Random(f"schedule {seed}")
    weights = {
        kind: weight for kind, weight in WEIGHTS.items() if not short or kind != Kind.DATABASE_LONG
    }
    kinds = chance.sample(list(weights), len(weights))
    if short:
        kinds.sort(key=lambda kind: kind != Kind.WORKER_STOPPED)
    injuries: list[Injury] = []
    for number in range(kills):
        if number < len(kinds):
            kind = kinds[number]
        else:
            (kind,) = chance.choices(list(weights), list(weights.values()))
        after_outage = bool(injuries) and injuries[-1].kind in OUTAGES
        pauses = SHORT_PAUSES if short else CALM if after_outage else PAUSES
        pause = chance.uniform(*pauses)
        seconds = chance.uniform(*SECONDS_AWAY.get(kind, (0.0, 0.0)))
        if short and kind in OUTAGES:
            seconds *= SHORT_OUTAGE
        injuries.append(Injury(number, kind, pause, chance.randrange(1000), seconds))
    return injuries
