"""A chaos run on one broker: undisturbed run, injuries, wait for all scenarios, judgement."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.evidence import gather
from tests.chaos.figures import Figures, measure
from tests.chaos.injuries import Done, Surgeon
from tests.chaos.schedule import KILLS, Injury, Kind
from tests.chaos.verdict import Violation, judge, judge_ends, judge_logs
from tests.chaos.watch import Watch
from tests.chaos.workload import Choice, Expected, Work, create, say, stored
from tests.chaos.world import World, world
from vidan.db.session import Database
from vidan.domain.status import ENDED, Status
from vidan.errors import VidanError

LIVE = 3
"""Scenarios that run at any time; the rest of the five slots is for scenarios that were hit."""
STANDSTILL = 120.0
"""Seconds without any change after which the remaining scenarios count as stuck."""
UNDISTURBED_LIMIT = 900.0
"""Longest time, in seconds, that the undisturbed run may take."""


class UndisturbedFailed(Exception):
    """The run failed though nothing was injured."""


@dataclass
class Report:
    """The result of a chaos run on one broker."""

    broker: str
    figures: Figures
    violations: list[Violation]
    done: Sequence[Done]
    expected: Mapping[str, Expected]


class Feeder:
    """Creates scenarios until it is ended, so that there is always work."""

    def __init__(self, database: Database, choice: Choice) -> None:
        self.works: dict[int, Work] = {}
        self._database = database
        self._choice = choice
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="feeder", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop creating scenarios."""
        self._over.set()
        self._thread.join()

    def quick(self) -> int | None:
        """Create a scenario that takes no time, since only its announcement matters."""
        return self._create(Work("ponder", None, {"number": 12}), slowly=False)

    def _feed(self) -> None:
        while not self._over.wait(0.1):
            try:
                with self._database.begin() as connection:
                    live = connection.exec_driver_sql(
                        "SELECT count(*) FROM scenarios"
                        " WHERE status NOT IN ('completed', 'failed', 'inactive')"
                    ).scalar_one()
            except VidanError:
                continue
            if live < LIVE:
                self._create(self._choice.next(), slowly=True)

    def _create(self, work: Work, *, slowly: bool) -> int | None:
        try:
            scenario_id = create(self._database, work, slowly=slowly)
        except VidanError:
            return None  # if the commit succeeded and its answer was lost, _lost_answers finds it
        self.works[scenario_id] = work
        return scenario_id


def operate(
    broker: str,
    choice: Choice,
    injuries: Sequence[Injury],
    logs: Path,
    expected: Mapping[str, Expected] | None = None,
    *,
    keep: bool = False,
) -> Report:
    """Do everything on one broker. With `expected` there is no undisturbed run.

    The histories of scenarios with violations, or with `keep` those of all scenarios, are written
    beside the logs.
    """
    with world(broker, logs) as made:
        database = Database(made.postgres.url)
        try:
            with made.fleet.tended():
                return _operate(made, database, choice, injuries, expected, keep)
        finally:
            database.close()


def _operate(
    made: World,
    database: Database,
    choice: Choice,
    injuries: Sequence[Injury],
    expected: Mapping[str, Expected] | None,
    keep: bool,
) -> Report:
    _wait_for_workers(made)
    if expected is None:
        expected = _undisturbed(made, database, choice.works)
    feeder = Feeder(database, choice)
    surgeon = Surgeon(made, database)
    watch = Watch(made.settings, feeder.quick)
    try:
        _injure(made, surgeon, watch, injuries)
    finally:
        feeder.end()
        watch.end()
        surgeon.hurry()
    violations = _wait_for_all(made)
    violations += [Violation(line) for line in made.fleet.leave()]
    known = {**_lost_answers(made, feeder.works, choice.works), **feeder.works}
    evidence = gather(made, known, surgeon.done, surgeon.stopped)
    violations += judge(evidence, expected, lambda one: stored(database, one))
    violations += judge_ends(evidence, made.fleet.unasked())
    kills = sum(one.injury.kind in KILLS for one in surgeon.done)
    violations += judge_logs(made.logs, kills)
    wanted = {
        one: {
            frame
            for frame in expected[work.key].frames
            if evidence.rows[one]["status"] == Status.COMPLETED
            or frame < evidence.rows[one]["checkpoint"]
        }
        for one, work in known.items()
    }
    _write_down(made, known if keep else {one.scenario_id for one in violations} - {None})
    figures = measure(evidence, watch.heard, wanted)
    return Report(made.broker_kind, figures, violations, surgeon.done, expected)


def _injure(made: World, surgeon: Surgeon, watch: Watch, injuries: Sequence[Injury]) -> None:
    began = time.monotonic()
    for injury in injuries:
        time.sleep(injury.pause)
        say(f"{made.broker_kind} {time.monotonic() - began:6.1f} s  {injury}")
        broker = injury.kind in (Kind.BROKER_KILLED, Kind.BROKER_RESTARTED)
        if broker:
            watch.end()
        surgeon.injure(injury)
        if broker:
            watch.begin()
    surgeon.settle()


def _wait_for_workers(made: World) -> None:
    deadline = time.monotonic() + 120
    while True:
        (found,) = made.rows("SELECT count(*) AS count FROM workers WHERE lease_until > now()")
        if found["count"] >= 3:
            return
        if time.monotonic() > deadline:
            raise UndisturbedFailed(f"the workers do not come: see {made.logs}")
        time.sleep(0.1)


def _undisturbed(made: World, database: Database, works: Sequence[Work]) -> dict[str, Expected]:
    """Run every work once, without injuries."""
    began = time.monotonic()
    ids = {create(database, work, slowly=False): work for work in works}
    say(f"{made.broker_kind}: {len(ids)} scenarios run undisturbed")
    while left := _unended(made):
        if time.monotonic() - began > UNDISTURBED_LIMIT:
            raise UndisturbedFailed(f"the undisturbed run does not end ({left}): see {made.logs}")
        time.sleep(0.2)
    for row in made.rows("SELECT id, name, status, error FROM scenarios ORDER BY id"):
        if row["status"] != Status.COMPLETED:
            raise UndisturbedFailed(
                f"undisturbed, {row['name']} is {row['status']} ({row['error']}): see {made.logs}"
            )
    say(f"{made.broker_kind}: that took {time.monotonic() - began:.1f} s")
    return {work.key: stored(database, scenario_id) for scenario_id, work in ids.items()}


def _unended(made: World) -> list[int]:
    ended = ", ".join(f"'{status}'" for status in sorted(ENDED))
    return [
        row["id"] for row in made.rows(f"SELECT id FROM scenarios WHERE status NOT IN ({ended})")
    ]


def _wait_for_all(made: World) -> list[Violation]:
    """Wait until all scenarios have ended, as long as anything changes."""
    moved, last = time.monotonic(), None
    while left := _unended(made):
        (now,) = made.rows(
            "SELECT (SELECT max(id) FROM transitions) AS step,"
            " (SELECT count(*) FROM chaos_commits) AS commits"
        )
        if now != last:
            moved, last = time.monotonic(), now
        if time.monotonic() - moved > STANDSTILL:
            return [Violation(f"nothing changed for {STANDSTILL:.0f} s", one) for one in left]
        time.sleep(0.2)
    return []


def _lost_answers(made: World, known: Mapping[int, Work], works: Sequence[Work]) -> dict[int, Work]:
    """Return scenarios that were created though the answer to the feeder was lost."""
    by_key = {work.key: work for work in works}
    (first,) = made.rows(
        "SELECT coalesce(min(id), 0) AS id FROM scenarios WHERE id = ANY(%(ids)s)", ids=list(known)
    )
    return {
        row["id"]: by_key[row["name"]]
        for row in made.rows("SELECT id, name FROM scenarios WHERE id > %(id)s", id=first["id"])
        if row["id"] not in known
    }


def _write_down(made: World, ids: Iterable[int | None]) -> None:
    """Write the histories of scenarios beside the logs, since the database is removed."""
    for scenario_id in ids:
        with (made.logs / f"scenario-{scenario_id}.txt").open("w", encoding="utf-8") as file:
            for sql in (
                "SELECT * FROM scenarios WHERE id = %(id)s",
                "SELECT * FROM transitions WHERE scenario_id = %(id)s ORDER BY id",
                "SELECT * FROM chaos_commits WHERE scenario_id = %(id)s ORDER BY at",
                "SELECT * FROM gaps WHERE scenario_id = %(id)s ORDER BY from_frame",
            ):
                for row in made.rows(sql, id=scenario_id):
                    file.write(f"{ {name: str(value) for name, value in row.items()} }\n")
            marks = made.marks / str(scenario_id)
            file.write(marks.read_text(encoding="ascii") if marks.exists() else "")
