"""The table of a chaos run: injuries by kind, recovery times, frames that were done twice."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.evidence import Evidence, redone
from tests.chaos.injuries import Done
from tests.chaos.schedule import DATABASE, OUTAGES, Kind
from tests.chaos.watch import Heard
from vidan.domain.status import ENDED, Status
from vidan.domain.worker import LEASE_SECONDS

WORKER_FREE = "worker killed, another free"
WORKER_WAITS = "worker killed, none free or a suspect"
CLAIMED = "broker back: new work claimed"
HEARD = "broker back: announcement received"

AIMS: dict[str, float] = {
    WORKER_FREE: 1.0,
    Kind.WORKER_STOPPED: LEASE_SECONDS + 1.0,
    **dict.fromkeys(OUTAGES, 5.0),
    CLAIMED: 5.0,
}
"""Seconds within which work should resume, on a machine that is not busy."""


@dataclass
class Figures:
    """The figures of a run."""

    injuries: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    missed: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    each: list[tuple[int, int, float]] = field(default_factory=list)
    """(injury, scenario, seconds) of each recovery."""
    scenarios: int = 0
    statuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    frames: int = 0
    redone: int = 0
    interruptions: int = 0
    most_redone: int = 0
    largest_commit: int = 0
    lost: int = 0
    twice: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what --json writes."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "injuries": dict(self.injuries),
            "statuses": dict(self.statuses),
            "each_recovery": self.each,
            "recoveries": {
                kind: {"n": len(times), "p50": percentile(times, 0.5),
                       "p95": percentile(times, 0.95), "max": max(times)}
                for kind, times in self.recoveries.items()
            },
        }  # fmt: skip


_COUNTS = (
    "missed scenarios frames redone interruptions most_redone largest_commit lost twice"
).split()


def measure(
    evidence: Evidence, heard: Sequence[Heard], expected: Mapping[int, set[int]]
) -> Figures:
    """Count and measure. `expected` are the frames that each scenario should have stored."""
    figures = Figures()
    for done in evidence.done:
        if done.missed:
            figures.missed += 1
            continue
        name = _name(done)
        figures.injuries[name] += 1
        for scenario_id, seconds in _recoveries(evidence, done):
            figures.recoveries[name].append(seconds)
            figures.each.append((done.injury.number, scenario_id, seconds))
    for one in heard:
        _hear(evidence, figures, one)
    figures.recoveries = {kind: times for kind, times in figures.recoveries.items() if times}
    for scenario_id in evidence.works:
        row = evidence.rows[scenario_id]
        figures.scenarios += 1
        figures.statuses[row["status"]] += 1
        figures.frames += row["frames_done"]
        figures.lost += max(0, len(expected[scenario_id]) - row["frames_done"])
        for run in redone(evidence.marks[scenario_id]):
            frames = sum(len(mark.frames) for mark in run)
            figures.redone += frames
            figures.interruptions += 1
            figures.most_redone = max(figures.most_redone, frames)
    figures.twice = len(evidence.twice)
    figures.largest_commit = max(
        (one.frames for commits in evidence.commits.values() for one in commits), default=0
    )
    return figures


def _hear(evidence: Evidence, figures: Figures, one: Heard) -> None:
    claims = [
        step.at
        for step in evidence.steps.get(one.fed or 0, ())
        if step.went == Status.INIT_STARTUP_PROCESSING
    ]
    if claims and not _unavailable(evidence, one.returned, claims[0]):
        figures.recoveries[CLAIMED].append(claims[0] - one.returned)
    if one.seconds is not None and not _unavailable(
        evidence, one.returned, one.returned + one.seconds
    ):
        figures.recoveries[HEARD].append(one.seconds)


def _unavailable(evidence: Evidence, since: float, until: float) -> bool:
    """Whether the database was unavailable within that time."""
    return any(
        done.injury.kind in DATABASE and done.at < until and (done.returned or done.at) > since
        for done in evidence.done
    )


def _name(done: Done) -> str:
    if done.injury.kind is Kind.WORKER_KILLED:
        return WORKER_FREE if done.free else WORKER_WAITS
    return str(done.injury.kind)


def _recoveries(evidence: Evidence, done: Done) -> Iterator[tuple[int, float]]:
    """Yield each scenario that was hit, and the seconds until it resumed, unless another injury
    disturbed that.
    """
    kind = done.injury.kind
    if kind in (Kind.ENDING_ANSWER, Kind.ORCHESTRATOR_KILLED):
        return
    late = kind in OUTAGES or kind is Kind.USER_STOP_START
    since = done.returned if late else done.at
    if since is None:
        return
    for scenario_id in done.hits:
        ended = {Status.INACTIVE} if kind is Kind.USER_STOP else set()
        times = [
            step.at
            for step in evidence.steps[scenario_id]
            if step.at > since
            and (step.went == Status.INIT_STARTUP_PROCESSING or Status(step.went) in ended)
        ]
        finishes = [
            step.at
            for step in evidence.steps[scenario_id]
            if step.at > since and Status(step.went) in ENDED
        ]
        if kind in OUTAGES or kind is Kind.COMMIT_ANSWER:
            times += [one.at for one in evidence.commits.get(scenario_id, ()) if one.at > since]
            times += finishes
        elif finishes and kind is not Kind.USER_STOP and (not times or finishes[0] < min(times)):
            continue  # the scenario had already ended
        if times and not _disturbed(evidence, done, scenario_id, since, min(times)):
            yield scenario_id, min(times) - since


def _disturbed(
    evidence: Evidence, done: Done, scenario_id: int, since: float, until: float
) -> bool:
    """Whether another injury fell into that time, which is then meaningless."""
    others = [one for one in evidence.done if one is not done and not one.missed]
    for other in others:
        end = other.returned or other.at
        lasts = other.injury.kind in DATABASE or (
            other.injury.kind is Kind.WORKER_STOPPED and scenario_id in other.hits
        )
        if lasts and other.at < until and end > since:
            return True
        if scenario_id in other.hits and since < other.at < until:
            return True
    return False


def percentile(times: Sequence[float], share: float) -> float:
    """Return the smallest time that at least a `share` of the cases do not exceed."""
    ordered = sorted(times)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(figures: Figures) -> str:
    """Return the table for people."""
    names = sorted({*figures.injuries, *figures.recoveries})
    lines = [
        f"{'injury':40} {'done':>5} {'n':>5} {'p50 s':>7} {'p95 s':>7} {'max s':>7} {'aim s':>6}"
    ]
    for name in names:
        times = figures.recoveries.get(name)
        values = (percentile(times, 0.5), percentile(times, 0.95), max(times)) if times else ()
        shown = "".join(f" {value:7.2f}" for value in values) or "       -" * 3
        aim = AIMS.get(name)
        over = " !" if aim is not None and times and max(times) > aim else ""
        lines.append(
            f"{name:40} {figures.injuries.get(name, 0) or '':>5} {len(times or ()):5}{shown}"
            f" {'' if aim is None else f'{aim:6.1f}'}{over}"
        )
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(figures.statuses.items()))
    counts = {
        "injuries": f"{sum(figures.injuries.values())} ({figures.missed} more found no target)",
        "scenarios": f"{figures.scenarios} ({statuses})",
        "frames": figures.frames,
        "frames done twice": f"{figures.redone} in {figures.interruptions} interrupted runs,"
        f" {figures.most_redone} at most in one (largest commit: {figures.largest_commit})",
        "frames lost": figures.lost,
        "frames stored twice": figures.twice,
    }
    lines.append("")
    lines += [f"{name:40} {value}" for name, value in counts.items()]
    return "\n".join(lines)
