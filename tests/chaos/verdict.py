"""Judges what a chaos run has left: each violation is one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.chaos.compare import differences
from tests.chaos.evidence import Evidence, Mark, Step, redone
from tests.chaos.fleet import Unasked
from tests.chaos.injuries import Done
from tests.chaos.schedule import DATABASE, KILLS, Kind
from tests.chaos.workload import Expected
from tests.support.apps.chaos import THRESHOLD
from vidan.detection.catalogue import DEFAULT_MIN_SCORE
from vidan.domain.status import ALLOWED, ENDED, HELD, Status
from vidan.domain.worker import LEASE_SECONDS
from vidan.errors import DatabaseUnavailable
from vidan.run.committer import COMMIT_SECONDS

DIED = "the worker died"  # followed by how, if that is known
STUMBLED = "ValueError: stumbled"
UNCOUNTED = (
    "claimed", "created", "stop asked for", "started", "handed over", "the worker is leaving",
    "the lease ended", "the claim's answer was lost", "claimed ahead, not begun",
    "cleared of suspicion",
)  # fmt: skip
"""The reasons of transitions that charge no budget."""
OUTAGE = ("can't reach the database:", "the database ended a conflict:")

SLACK = 3.0
"""Longest delay, in seconds, that a busy machine may add."""
WINDOW = 2 * COMMIT_SECONDS + SLACK
"""Longest time, in seconds, whose frames a kill may cost: two commits and a delay."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation of a promise, and the scenario that it concerns."""

    text: str
    scenario_id: int | None = None


def judge(
    evidence: Evidence, expected: Mapping[str, Expected], stored: Callable[[int], Expected]
) -> Iterator[Violation]:
    """Yield all violations of the scenarios."""
    for scenario_id, work in evidence.works.items():
        row = evidence.rows.get(scenario_id)
        if row is None:
            yield Violation("its row is gone", scenario_id)
            continue
        found = stored(scenario_id)
        lines = [
            *_ending(evidence, scenario_id),
            *_chain(evidence.steps[scenario_id], row["status"]),
            *_commits(evidence, scenario_id, len(found.frames)),
            *_budgets(evidence, scenario_id),
            *_window(evidence, scenario_id),
        ]
        threshold = DEFAULT_MIN_SCORE if work.task in ("nano", "detect") else THRESHOLD
        whole = expected[work.key]
        completed = row["status"] == Status.COMPLETED
        upto = None if completed else row["checkpoint"]
        lines += differences(found, whole, threshold, upto=upto)
        if found.state.get("frames", len(found.frames)) != len(found.frames):
            lines.append(f"it counts {found.state['frames']} frames of {len(found.frames)}")
        if completed and (found.result, found.state) != (whole.result, whole.state):
            lines.append(
                f"result {found.result} and state {found.state}, not {whole.result}, {whole.state}"
            )
        yield from (Violation(line, scenario_id) for line in lines)
    for scenario_id, frame in evidence.twice:
        yield Violation(f"frame {frame} is stored twice", scenario_id)
    if evidence.dead_letters:
        yield Violation(
            f"{evidence.dead_letters} dead letters, though no unreadable message was sent"
        )


def _ending(evidence: Evidence, scenario_id: int) -> Iterator[str]:
    row = evidence.rows[scenario_id]
    status = Status(row["status"])
    may_be = {Status.COMPLETED}
    if scenario_id in evidence.stopped:
        may_be.add(Status.INACTIVE)
    if status not in may_be:
        yield f"it is {status}, not {' or '.join(sorted(may_be))} ({row['error']})"
    if (row["worker_id"] is not None) != (status in HELD):
        yield f"it is {status}, and its worker is {row['worker_id']}"
    if status in ENDED and row["announce_at"] is not None:
        yield f"it is {status}, and to be announced"


def _chain(steps: Sequence[Step], status: str) -> Iterator[str]:
    """Yield transitions that are not allowed, or do not join the one before."""
    before: str | None = None
    for step in steps:
        if step.came != before:
            yield f"a transition from {step.came} to {step.went} follows {before}"
        if step.came is not None and Status(step.went) not in ALLOWED[Status(step.came)]:
            yield f"a transition from {step.came} to {step.went} is not allowed"
        before = step.went
    if before != status:
        yield f"it is {status}, and its last transition led to {before}"


def _commits(evidence: Evidence, scenario_id: int, rows: int) -> Iterator[str]:
    """Yield checkpoints that went back or jumped, and wrong counts of frames."""
    at, epoch = 0, 0
    for commit in evidence.commits.get(scenario_id, ()):
        if commit.came != at or commit.went < commit.came or commit.epoch < epoch:
            yield (
                f"a commit from {commit.came} to {commit.went} (epoch {commit.epoch})"
                f" follows one to {at} (epoch {epoch})"
            )
        at, epoch = commit.went, commit.epoch
    done = evidence.rows[scenario_id]["frames_done"]
    if done != rows:
        yield f"frames_done is {done}, and {rows} are stored"


def _budgets(evidence: Evidence, scenario_id: int) -> Iterator[str]:
    """Yield charges without a reason."""
    work, row = evidence.works[scenario_id], evidence.rows[scenario_id]
    reasons = [step.reason or "" for step in evidence.steps[scenario_id]]
    for budget, charge in (("crashes", DIED), ("attempts", STUMBLED)):
        charged = sum(reason.startswith(charge) for reason in reasons)
        if row[budget] > charged:
            yield f"{budget} is {row[budget]}, and {charged} were charged"
    for step in evidence.steps[scenario_id]:
        reason = step.reason
        if reason is None or reason in UNCOUNTED or reason.startswith(OUTAGE):
            continue
        if reason.startswith(f"{STUMBLED} (chaos.py:") and work.task == "stumble":
            continue
        if reason.startswith(DIED) and _killer(evidence, scenario_id, step) is not None:
            continue
        yield f"charged without a reason: {step.came} to {step.went} by {step.actor}: {reason}"


def _killer(evidence: Evidence, scenario_id: int, died: Step) -> Done | None:
    """Return the injury that killed the scenario's worker, or stopped it past its lease."""
    claims = [
        step
        for step in evidence.steps[scenario_id]
        if step.went == Status.INIT_STARTUP_PROCESSING and step.at <= died.at
    ]
    for done in evidence.done:
        if done.missed or done.victim != claims[-1].actor:
            continue
        if done.injury.kind in KILLS:
            limit = LEASE_SECONDS + SLACK + _outage(evidence, done.at, died.at)
        elif done.injury.kind is Kind.WORKER_STOPPED:
            limit = 2 * LEASE_SECONDS + SLACK
        else:
            continue
        if 0 <= died.at - done.at <= limit and claims[-1].at <= done.at + SLACK:
            return done
    return None


def _window(evidence: Evidence, scenario_id: int) -> Iterator[str]:
    """Yield the runs after which more had to be done again than two commits contain."""
    for run in redone(evidence.marks[scenario_id]):
        lasted = run[-1].at - run[0].at
        allowed = WINDOW + _outage(evidence, run[0].at, run[-1].at) + _largest_pause(run)
        if lasted > allowed:
            yield (
                f"{sum(len(one.frames) for one in run)} frames of {lasted:.1f} s were done again"
                f" (from {run[0].frames[0]} on, by process {run[0].pid})"
            )


def _largest_pause(run: Sequence[Mark]) -> float:
    """Return the longest pause of a run: a stopped worker does nothing in it."""
    return max((two.at - one.at for one, two in pairwise(run)), default=0.0)


def _outage(evidence: Evidence, since: float, until: float) -> float:
    """Return the seconds within a time in which the database was unavailable or just back."""
    seconds = 0.0
    for done in evidence.done:
        if done.injury.kind in DATABASE and done.returned is not None:
            end = done.returned + SLACK
            seconds += max(0.0, min(until, end) - max(since, done.at))
    return seconds


def judge_ends(evidence: Evidence, unasked: Sequence[Unasked]) -> Iterator[Violation]:
    """Yield services that ended by themselves.

    A service that is started while the database is unavailable may end with an error, since an
    init system restarts it.
    """
    for one in unasked:
        unavailable = _outage(evidence, one.at - SLACK, one.at) > 0
        if not (one.code == DatabaseUnavailable.exit_code and unavailable):
            yield Violation(f"{one.name} ended by itself with {one.code}")


_ENDED = re.compile(r"worker (\S+) ended with (-?\d+)")
_UNFORESEEN = re.compile(r"^Traceback| (ERROR|CRITICAL) ")
_SAYS_UNAVAILABLE = re.compile(r"ERROR +vidan\.supervisor: can't reach the database")


def judge_logs(logs: Path, kills: int) -> Iterator[Violation]:
    """Yield unexpected errors in the logs of the processes."""
    killed = 0
    for path in sorted(logs.glob("*or-*.log")):
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            ended = _ENDED.search(line)
            if ended and ended[2] == "-9":
                killed += 1
            elif ended:
                yield Violation(f"{path}:{number}: a worker ended by itself with {ended[2]}")
            elif _UNFORESEEN.search(line) and not _SAYS_UNAVAILABLE.search(line):
                yield Violation(f"{path}:{number}: {line.strip()}")
    if killed > kills:
        yield Violation(f"{killed} workers died of SIGKILL, and {kills} were sent")
