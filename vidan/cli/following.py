"""Follows scenarios until they have ended: progress, messages, and the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from vidan import backoff
from vidan.cli import failures
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import for_people, status_word
from vidan.domain.bounds import PAGE
from vidan.domain.durations import in_words
from vidan.domain.status import ENDED, Status

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vidan.cli.options.params import MaxLost
    from vidan.db.session import Database
    from vidan.services.scenarios import Scenario

T = TypeVar("T")

POLL_SECONDS = 0.25
"""Pause between two reads of the scenarios that are followed, in seconds."""

POLL_MANY_SECONDS = 1.0
"""The same pause when more than a hundred scenarios are followed."""

BARS = 10
"""Most scenarios that get a progress bar each; with more, one bar counts the ended ones."""

NAME_WIDTH = 24
"""Most characters of a name beside a progress bar."""

FAILED, STOPPED, TIMED_OUT, INCOMPLETE = 5, 6, 7, 11
_CODES: Mapping[Status, int] = {
    Status.COMPLETED: 0,
    Status.FAILED: FAILED,
    Status.INACTIVE: STOPPED,
}


def code_of(status: Status) -> int:
    """Return the exit code for a status: 7 if the scenario has not ended."""
    return _CODES.get(status, TIMED_OUT)


def worst(statuses: Sequence[Status]) -> int:
    """Return the exit code for several scenarios: 5 before 6 before 7."""
    codes = [code for code in map(code_of, statuses) if code]
    return min(codes, default=0)


def incomplete(out: Output, found: Sequence[Scenario], most: MaxLost | None) -> int:
    """Name the completed scenarios that lost more than `most`; return 11 if there is one, else 0.

    None allows any loss.
    """
    code = 0
    for one in found:
        if most is None or one.status is not Status.COMPLETED:
            continue
        # the checkpoint counts the frames of the source, the lost ones included
        frames = max(one.checkpoint, one.lost_frames)
        if most.is_exceeded(one.lost_frames, frames):
            code = INCOMPLETE
            lost = f"{one.lost_frames} of {frames} frames were lost, more than {most}"
            out.warn(f"scenario {one.id} is incomplete: {lost}")
    return code


def patiently(work: Callable[[], T], out: Output) -> T:
    """Read from the database; while it is unavailable, try again for half a minute at most."""
    return backoff.patiently(
        work,
        pause=1,
        tell=lambda error: out.warn(f"{error}; trying again for {backoff.OUTAGE_SECONDS:.0f} s"),
    )


def read_all(database: Database, ids: Sequence[int]) -> list[Scenario]:
    """Return the scenarios with these ids, in the order of the ids. Raises NotFoundError."""
    from vidan.services import scenarios

    found: dict[int, Scenario] = {}
    for start in range(0, len(ids), PAGE):
        part = ids[start : start + PAGE]
        with database.begin() as connection:
            page = scenarios.find(connection, ids=part, limit=len(part))
        found.update((scenario.id, scenario) for scenario in page)
    for one in ids:
        if one not in found:
            raise scenarios.no_such_scenario(one)
    return [found[one] for one in ids]


def wait_for(
    database: Database,
    out: Output,
    ids: Sequence[int],
    timeout: float | None,
    *,
    progress: Progress | None = None,
    tick: Callable[[], None] = lambda: None,
    each: Callable[[Scenario], None] | None = None,
) -> list[Scenario]:
    """Wait until all have ended, or for `timeout` seconds; return them as they are then.

    `tick` is called before each read of the database, `each` with every scenario that was read.
    """
    until = None if timeout is None else time.monotonic() + timeout
    bars = Bars(progress)
    pause = POLL_SECONDS if len(ids) <= 100 else POLL_MANY_SECONDS
    while True:
        tick()
        found = patiently(lambda: read_all(database, ids), out)
        bars.show(found)
        if each is not None:
            for scenario in found:
                each(scenario)
        if all(scenario.status in ENDED for scenario in found):
            return found
        left = pause if until is None else until - time.monotonic()
        if left <= 0:
            return found
        time.sleep(min(pause, left))


def note_unserved(database: Database, out: Output, ids: Sequence[int]) -> None:
    """Name scenarios whose queue no running worker takes. Raises NotFoundError."""
    from vidan.services import workers

    def served_queues() -> set[str]:
        with database.begin() as connection:
            return {queue for worker in workers.find(connection) for queue in worker.queues}

    waiting = [one for one in patiently(lambda: read_all(database, ids), out)
               if one.status is Status.INIT_STARTUP]  # fmt: skip
    if not waiting:
        return
    served = patiently(served_queues, out)
    for queue in sorted({one.queue for one in waiting} - served):
        first = next(one.id for one in waiting if one.queue == queue)
        out.note(f"scenario {first} waits: no worker has queue {queue!r} now; `vidan doctor` helps")


def note_delayed(out: Output, found: Sequence[Scenario]) -> None:
    """Say of the first scenario that is not due yet, when it is, and how many others are not."""
    now = datetime.now(UTC)
    later = sorted(
        (one for one in found if one.due_at is not None and one.due_at > now),
        key=lambda one: one.not_before,
    )
    if later:
        more = f"; {len(later) - 1} more wait too" if len(later) > 1 else ""
        out.note(f"scenario {later[0].id} {until(out, later[0], now)}{more}")


def until(out: Output, scenario: Scenario, now: datetime) -> str:
    """Return when a delayed scenario is due, and how many retries are left after an error."""
    left = max(1, round((scenario.not_before - now).total_seconds()))
    when = f"{out.when(scenario.not_before)} (in {in_words(left)})"
    if scenario.next_try_at is not None:
        retries = "1 retry" if scenario.retries_left == 1 else f"{scenario.retries_left} retries"
        return f"is tried again at {when}, {retries} left"
    return f"is due at {when}"


def tell_places(database: Database, out: Output, found: list[Scenario]) -> list[Scenario]:
    """Return scenarios with their places in their queues, and the times they waited and ran."""
    from vidan.services import queueing

    def read() -> list[Scenario]:
        with database.begin() as connection:
            return queueing.told(connection, found)

    return patiently(read, out)


def wait_and_tell(
    database: Database,
    out: Output,
    ids: Sequence[int],
    timeout: float | None,
    *,
    created: bool = False,
    max_lost: MaxLost | None = None,
) -> int:
    """Wait, print how they ended, and return the exit code. Ctrl-C ends only the waiting.

    `created`: this command has created them and has printed their ids already. `max_lost`: what a
    completed one may have lost.
    """
    try:
        note_unserved(database, out, ids)
        note_delayed(out, patiently(lambda: read_all(database, ids), out))
        with out.progress() as progress:
            found = wait_for(database, out, ids, timeout, progress=progress)
    except KeyboardInterrupt:
        say_they_continue(out, ids)
        return failures.INTERRUPTED
    for scenario in tell_places(database, out, found):
        if out.json or not created:
            text = f"{scenario.id}\t{out.shown(scenario.status)}"
            out.line(scenario.as_json(), text, id=scenario.id)
        tell_end(out, scenario)
    lacking = incomplete(out, found, max_lost)
    return worst([scenario.status for scenario in found]) or lacking


def tell_end(out: Output, scenario: Scenario) -> None:
    """Say on stderr how a scenario ended, and how many frames were lost."""
    status = out.said(scenario.status)
    text = f"scenario {scenario.id} is {status}: {scenario.frames_done} frames"
    if scenario.lost_frames:
        text += f", {scenario.lost_frames} lost"
    if scenario.status not in ENDED:
        text = f"timed out waiting: {text}"
        now = datetime.now(UTC)
        if scenario.due_at is not None and scenario.due_at > now:
            text += f"; it {until(out, scenario, now)}"
        elif scenario.queue_position is not None:
            text += f"; number {scenario.queue_position} of those due in queue {scenario.queue}"
    out.note(f"{text}; {scenario.error}" if scenario.error else text)
    for note in scenario.notes:
        out.note(f"scenario {scenario.id}: {note}")


def say_they_continue(out: Output, ids: Sequence[int]) -> None:
    """Say on stderr, after Ctrl-C, that the scenarios continue, and how to stop them."""
    if len(ids) == 1:
        out.warn(f"scenario {ids[0]} continues; `vidan scenario stop {ids[0]}` stops it")
    else:
        listed = " ".join(map(str, ids)) if len(ids) <= BARS else "ID…"
        out.warn(f"the {len(ids)} scenarios continue; `vidan scenario stop {listed}` stops them")


def of_total(scenario: Scenario, between: str) -> str:
    """Return `between` and the total number of frames, marked `~` if it is estimated; or ""."""
    if scenario.frames_total is not None:
        return f"{between}{scenario.frames_total}"
    estimated = scenario.frames_estimated
    if estimated is None:
        return ""
    ended = scenario.status in ENDED  # then what was done is the total, or nobody knows it
    return "" if ended else f"{between}~{max(estimated, scenario.frames_done)}"


def name_of(scenario: Scenario) -> str:
    """Return a scenario's name, else the last part of its source, else its task."""
    last = (scenario.source or "").rstrip("/").rpartition("/")[2]
    return scenario.name or last or scenario.task


class Bars:
    """A progress bar for each scenario, or one for all when there are more than BARS.

    Without a progress display it does nothing.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bars: dict[int, TaskID] = {}

    def show(self, scenarios: Sequence[Scenario]) -> None:
        """Update the bars."""
        if self._progress is None:
            return
        if len(scenarios) > BARS:
            ended = sum(scenario.status in ENDED for scenario in scenarios)
            self._update(0, f"{len(scenarios)} scenarios", ended, len(scenarios))
            return
        for scenario in scenarios:
            text = f"{scenario.id} {status_word(scenario.status)}"
            if len(scenarios) > 1:
                name = _short(for_people(name_of(scenario)))
                text = f"{scenario.id} {name} {status_word(scenario.status)}"
            total, about = scenario.frames_total, False
            if total is None and scenario.status not in ENDED:
                total, about = scenario.frames_estimated, True
                total = total and max(total, scenario.frames_done)
            self._update(scenario.id, text, scenario.frames_done, total, about=about)

    def _update(
        self, key: int, text: str, done: int, total: int | None, *, about: bool = False
    ) -> None:
        assert self._progress is not None
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(text, total=total)
        self._progress.update(
            self._bars[key], description=text, completed=done, total=total, about=about
        )


def _short(name: str) -> str:
    """Return a name that leaves room for the bar."""
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
