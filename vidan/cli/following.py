"""Following scenarios until they have ended: how it is shown, which exit code it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from vidan import backoff
from vidan.cli import failures
from vidan.cli.terminal.output import Output
from vidan.domain.status import ENDED, Status

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vidan.db.session import Database
    from vidan.domain.detection import Gap
    from vidan.services.scenarios import Scenario

T = TypeVar("T")

POLL_SECONDS = 0.25
SHOWN = 10
"""So many scenarios have a bar of their own."""

FAILED, STOPPED, TIMED_OUT = 5, 6, 7
_CODES: Mapping[Status, int] = {
    Status.COMPLETED: 0,
    Status.FAILED: FAILED,
    Status.INACTIVE: STOPPED,
}


def code_of(status: Status) -> int:
    """The exit code that a status gives: 7 for one that has not ended."""
    return _CODES.get(status, TIMED_OUT)


def worst(statuses: Sequence[Status]) -> int:
    """The exit code of several: 5 before 6 before 7."""
    codes = [code for code in map(code_of, statuses) if code]
    return min(codes, default=0)


def patiently(work: Callable[[], T], out: Output) -> T:
    """Do some reading, again while the database is away, for half a minute at most."""
    return backoff.patiently(
        work,
        pause=1,
        tell=lambda error: out.warn(f"{error}; trying again for {backoff.OUTAGE_SECONDS:.0f} s"),
    )


def read_all(database: Database, ids: Sequence[int]) -> list[Scenario]:
    """The scenarios of these ids, in their order. Raises NotFoundError."""
    from vidan.services import scenarios

    found: dict[int, Scenario] = {}
    for start in range(0, len(ids), 1000):
        part = ids[start : start + 1000]
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
    """Wait until all have ended, or for `timeout` seconds; how they stand then, in their order.

    `tick` is called at each look, `each` with every scenario that was looked at.
    """
    until = None if timeout is None else time.monotonic() + timeout
    bars = Bars(progress)
    pause = POLL_SECONDS if len(ids) <= 100 else 1.0
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
    """Say which of them wait for a queue that no living worker has. Raises NotFoundError."""
    from vidan.services import workers

    def look() -> set[str]:
        with database.begin() as connection:
            return {queue for worker in workers.find(connection) for queue in worker.queues}

    waiting = [one for one in patiently(lambda: read_all(database, ids), out)
               if one.status is Status.INIT_STARTUP]  # fmt: skip
    if not waiting:
        return
    served = patiently(look, out)
    for queue in sorted({one.queue for one in waiting} - served):
        first = next(one.id for one in waiting if one.queue == queue)
        out.note(f"scenario {first} waits: no worker has queue {queue!r} now; `vidan doctor` helps")


def wait_and_tell(
    database: Database,
    out: Output,
    ids: Sequence[int],
    timeout: float | None,
    *,
    created: bool = False,
) -> int:
    """Wait, print how they ended, and give the exit code. Ctrl-C leaves them as they are.

    `created`: their ids stand on stdout already.
    """
    try:
        note_unserved(database, out, ids)
        with out.progress() as progress:
            found = wait_for(database, out, ids, timeout, progress=progress)
    except KeyboardInterrupt:
        goes_on(out, ids)
        return failures.INTERRUPTED
    for scenario in found:
        if out.json or not created:
            text = f"{scenario.id}\t{scenario.status}"
            out.line(scenario.as_json(), text, id=scenario.id)
        tell_end(database, out, scenario)
    return worst([scenario.status for scenario in found])


def tell_end(database: Database, out: Output, scenario: Scenario) -> None:
    """Say on stderr how one ended, and how many frames were lost."""
    from vidan.services import scenarios

    def look() -> list[Gap]:
        with database.begin() as connection:
            return scenarios.gaps(connection, scenario.id)

    gaps = patiently(look, out)
    lost = sum(gap.to_frame - gap.from_frame + 1 for gap in gaps)
    text = f"scenario {scenario.id} is {scenario.status}: {scenario.frames_done} frames"
    if lost:
        text += f", {lost} lost"
    if scenario.status not in ENDED:
        text = f"timed out waiting: {text}"
    out.note(f"{text}; {scenario.error}" if scenario.error else text)


def goes_on(out: Output, ids: Sequence[int]) -> None:
    """Say on stderr, after Ctrl-C, that what was watched goes on, and how to stop it."""
    if len(ids) == 1:
        out.warn(f"scenario {ids[0]} goes on; `vidan scenario stop {ids[0]}` stops it")
    else:
        listed = " ".join(map(str, ids)) if len(ids) <= SHOWN else "ID…"
        out.warn(f"the {len(ids)} scenarios go on; `vidan scenario stop {listed}` stops them")


class Bars:
    """A bar for each scenario, one for all when there are many; nothing without a display."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bars: dict[int, TaskID] = {}

    def show(self, scenarios: Sequence[Scenario]) -> None:
        """Bring the bars up to date."""
        if self._progress is None:
            return
        if len(scenarios) > SHOWN:
            ended = sum(scenario.status in ENDED for scenario in scenarios)
            self._update(0, f"{len(scenarios)} scenarios", ended, len(scenarios))
            return
        for scenario in scenarios:
            text = f"{scenario.id} {scenario.status}"
            self._update(scenario.id, text, scenario.frames_done, scenario.frames_total)

    def _update(self, key: int, text: str, done: int, total: int | None) -> None:
        assert self._progress is not None
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(text, total=total)
        self._progress.update(self._bars[key], description=text, completed=done, total=total)
