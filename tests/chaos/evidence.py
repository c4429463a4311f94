"""What a chaos run has left: rows, transitions, commits, and the marks of the tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.chaos.injuries import Done
from tests.chaos.workload import Work
from tests.chaos.world import World


@dataclass(frozen=True, slots=True)
class Step:
    """A change of status."""

    came: str | None
    went: str
    reason: str | None
    actor: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, as the database recorded it."""

    epoch: int
    came: int
    went: int
    frames: int
    at: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A batch that a task got."""

    at: float
    pid: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """Everything by which the run is judged."""

    works: Mapping[int, Work]
    rows: Mapping[int, Mapping[str, Any]]
    steps: Mapping[int, Sequence[Step]]
    commits: Mapping[int, Sequence[Commit]]
    marks: Mapping[int, Sequence[Mark]]
    done: Sequence[Done]
    stopped: frozenset[int]
    twice: Sequence[tuple[int, int]]
    dead_letters: int


def gather(
    world: World, works: Mapping[int, Work], done: Sequence[Done], stopped: set[int]
) -> Evidence:
    """Read everything, after the run has ended."""
    steps: dict[int, list[Step]] = defaultdict(list)
    for row in world.rows("SELECT * FROM transitions ORDER BY scenario_id, id"):
        steps[row["scenario_id"]].append(
            Step(row["from_status"], row["to_status"], row["reason"], row["actor"],
                 _seconds(row["at"]))
        )  # fmt: skip
    commits: dict[int, list[Commit]] = defaultdict(list)
    for row in world.rows("SELECT * FROM chaos_commits ORDER BY scenario_id, at"):
        commits[row["scenario_id"]].append(
            Commit(row["epoch"], row["from_frame"], row["to_frame"], row["frames"],
                   _seconds(row["at"]))
        )  # fmt: skip
    twice = world.rows(
        "SELECT scenario_id, frame FROM predictions GROUP BY 1, 2 HAVING count(*) > 1"
    )
    (letters,) = world.rows("SELECT count(*) AS count FROM dead_letters")
    return Evidence(
        works=works,
        rows={row["id"]: row for row in world.rows("SELECT * FROM scenarios ORDER BY id")},
        steps=steps,
        commits=commits,
        marks={one: _marks(world.marks / str(one)) for one in works},
        done=done,
        stopped=frozenset(stopped),
        twice=[(row["scenario_id"], row["frame"]) for row in twice],
        dead_letters=int(letters["count"]),
    )


def _seconds(at: datetime) -> float:
    return at.timestamp()


def _marks(path: Path) -> list[Mark]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="ascii").splitlines():
        at, pid, *frames = line.split()
        found.append(Mark(float(at), int(pid), tuple(map(int, frames))))
    return found


def redone(marks: Sequence[Mark]) -> list[list[Mark]]:
    """Return, for each interrupted run, the batches whose frames a later run got as well.

    A run is a sequence of rising frames that one process got.
    """
    runs: list[list[Mark]] = []
    open_runs: dict[int, list[Mark]] = {}
    for mark in marks:
        mine = open_runs.get(mark.pid)
        if mine is None or mark.frames[0] <= mine[-1].frames[-1]:
            mine = open_runs[mark.pid] = []
            runs.append(mine)
        mine.append(mark)
    later: set[int] = set()
    found = []
    for run in reversed(runs):
        again = [
            Mark(mark.at, mark.pid, frames)
            for mark in run
            if (frames := tuple(one for one in mark.frames if one in later))
        ]
        found.append(again)
        later.update(one for mark in run for one in mark.frames)
    return [again for again in reversed(found) if again]
