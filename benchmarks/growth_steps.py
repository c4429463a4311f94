"""The frequent statements of workers and orchestrators, timed on an empty and on a grown table."""

from __future__ import annotations

import gc
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import psycopg
from sqlalchemy import Connection, text

from benchmarks import report
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import (
    announcements,
    claims,
    creation,
    expiry,
    heartbeats,
    lifecycle,
    waiting,
)
from vidan.protocol.claims import Claimant
from vidan.protocol.creation import NewScenario
from vidan.protocol.lifecycle import Ending
from vidan.protocol.tasks import DETECT, TaskSpec

T = TypeVar("T")

CYCLES = 150
"""How often each step is timed in a round."""
CLAIMED = 4
STEPS = ("claim", "announcement", "sweep", "expiry", "next due", "suspects", "heartbeat")
PROMISED = ("claim", "announcement", "sweep")


class Asking(Protocol):
    """Does a step's work in a transaction of its own, and measures it."""

    def __call__(self, step: str, work: Callable[[Connection], T], /) -> T:
        """Return the result of the work."""


class Side:
    """One database, with a worker and an orchestrator whose calls are timed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seconds: dict[str, list[float]] = {step: [] for step in STEPS}
        self.plans: dict[str, list[dict[str, Any]]] = {}
        self._database = Database(url, guarded=True)
        self._worker = uuid.uuid4()
        with self._database.begin() as connection:  # remove what an interrupted call left
            connection.execute(text("DELETE FROM workers WHERE name = 'bench'"))
            expiry.expire(connection, actor="bench")
            announcements.take_due(connection)
        with self._database.begin() as connection:
            heartbeats.register(
                connection,
                heartbeats.Registration(
                    self._worker, "bench", "bench", 1, "cpu", CLAIMED, ("default",), ("detect",)
                ),
            )
        taken = {DETECT.name: (DETECT.definition,)}
        self._claimant = Claimant(
            self._worker, "bench", ("default",), ("detect",), definitions=taken
        )
        self._idle = Claimant(self._worker, "bench", ("night",), ("detect",))

    def close(self) -> None:
        """Delete the worker."""
        with self._database.begin() as connection:
            connection.execute(text("DELETE FROM workers WHERE id = :id"), {"id": self._worker})
        self._database.close()

    def round(self) -> None:
        """Time each step CYCLES times."""
        self._live_on()
        gc.collect()
        gc.disable()
        try:
            for _ in range(CYCLES):
                self._cycle(self._timed)
        finally:
            gc.enable()

    def explain(self) -> None:
        """Let the server explain the statements of each step as they are sent."""
        self._live_on()
        self._cycle(self._explained)

    def wear(self, count: int) -> None:
        """Create `count` scenarios of a task without source, and finish them all."""
        self._live_on()
        tick = TaskSpec("tick", {}, needs_source=False)
        claimant = Claimant(
            self._worker,
            "bench",
            ("default",),
            (tick.name,),
            definitions={tick.name: (tick.definition,)},
        )
        with self._database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO tasks (name, needs_source) VALUES ('tick', false)"
                    " ON CONFLICT DO NOTHING"
                )
            )
        for _ in range(
            0, count, 5_000
        ):  # priority 5: claimed before the other scenarios in the queue
            with self._database.begin() as connection:
                news = [NewScenario(task="tick", priority=5)] * 5_000
                creation.create_many(connection, news)
        with self._database.begin() as connection:
            while announcements.take_due(connection):
                pass
        while self._finish_some(claimant):
            pass

    def _live_on(self) -> None:
        """Extend the worker's lease over the turns of the other databases."""
        with self._database.begin() as connection:
            connection.execute(
                text("UPDATE workers SET lease_until = now() + interval '1 day' WHERE id = :id"),
                {"id": self._worker},
            )

    def _finish_some(self, claimant: Claimant) -> int:
        with self._database.begin() as connection:
            fences = [one.fence for one in claims.claim(connection, claimant, 64)]
        with self._database.begin() as connection:
            lifecycle.start(connection, fences, actor="bench")
        with self._database.begin() as connection:
            lifecycle.finish(
                connection,
                [Ending(fence, Status.COMPLETED) for fence in fences],
                actor="bench",
            )
        return len(fences)

    def _cycle(self, ask: Asking) -> None:
        claimed = ask("claim", lambda c: claims.claim(c, self._claimant, CLAIMED))
        assert len(claimed) == CLAIMED
        with self._database.begin() as connection:
            fences = [one.fence for one in claimed]
            lifecycle.hand_over(connection, fences, reason="measured", actor="bench")
        assert len(ask("announcement", announcements.take_due)) == CLAIMED
        seen = ask("sweep", lambda c: waiting.look(c, self._idle.queues, self._idle.tasks))
        assert not any(one.due for one in seen)
        assert not ask("expiry", lambda c: expiry.expire(c, actor="bench"))
        ask("next due", announcements.next_due)
        assert not ask("suspects", lambda c: claims.suspects_due(c, [self._worker]))
        ask(
            "heartbeat",
            lambda c: heartbeats.beat(c, self._worker, state="idle", fps=0.0, count=True),
        )

    def _timed(self, step: str, work: Callable[[Connection], T]) -> T:
        began = time.perf_counter()
        with self._database.begin() as connection:
            done = work(connection)
        self.seconds[step].append(time.perf_counter() - began)
        return done

    def _explained(self, step: str, work: Callable[[Connection], T]) -> T:
        with self._database.begin() as connection, _explaining(connection) as plans:
            done = work(connection)
        self.plans[step] = plans
        return done


@contextmanager
def _explaining(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    """Collect the plans of the statements sent in the block, as auto_explain reports them."""
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    plans: list[dict[str, Any]] = []

    def collect(notice: psycopg.errors.Diagnostic) -> None:
        _, plan, found = (notice.message_primary or "").partition("plan:\n")
        explained = json.loads(found) if plan else {}
        if explained.get("Query Text", "SELECT 1") != "SELECT 1":
            plans.append(explained)

    driver.execute("LOAD 'auto_explain'")
    for name, value in (
        ("log_min_duration", "0"),
        ("log_analyze", "on"),
        ("log_buffers", "on"),
        ("log_format", "json"),
        ("log_level", "notice"),
    ):
        driver.execute(f"SET LOCAL auto_explain.{name} = '{value}'")
    driver.add_notice_handler(collect)
    try:
        yield plans
        driver.execute("SELECT 1")  # the last plan is reported when its portal is closed
    finally:
        driver.remove_notice_handler(collect)


def rows(grown: Mapping[str, Side], empty: Side) -> list[report.Row]:
    """Return a row for each step in each state, compared with the empty table."""
    found = []
    for state, side in grown.items():
        for step in STEPS:
            few, many = empty.seconds[step], side.seconds[step]
            figures = {}
            for share in (0.5, 0.99):
                name = f"p{share * 100:.0f}"
                figures[f"{name} empty ms"] = 1000 * report.quantile(few, share)
                figures[f"{name} ms"] = 1000 * report.quantile(many, share)
            ratio = figures["p99 ms"] / figures["p99 empty ms"]
            figures["p50 ratio"] = figures["p50 ms"] / figures["p50 empty ms"]
            figures["pages empty"] = sum(map(_pages, empty.plans[step]))
            figures["pages"] = sum(map(_pages, side.plans[step]))
            promise = "<= 1.2" if step in PROMISED else ""
            found.append(report.Row(f"{step}, {state}", ratio, {**figures}, promise))
    return found


def _pages(plan: Mapping[str, Any]) -> int:
    top = plan["Plan"]
    return int(top.get("Shared Hit Blocks", 0) + top.get("Shared Read Blocks", 0))


def told(plan: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Return a plan as lines: nodes, their index or table, rows, pages, milliseconds."""
    node = plan.get("Plan", plan)
    if depth == 0:
        yield " ".join(str(plan.get("Query Text", "")).split())[:100]
    parts = [node["Node Type"]]
    parts += [f"on {node[key]}" for key in ("Index Name", "Relation Name") if key in node][:1]
    parts.append(f"rows {node['Actual Rows']:g} of {node['Plan Rows']} planned")
    parts.append(f"pages {node.get('Shared Hit Blocks', 0) + node.get('Shared Read Blocks', 0)}")
    if "Actual Total Time" in node:
        parts.append(f"{node['Actual Total Time']:.3f} ms")
    for key in ("Rows Removed by Filter", "Rows Removed by Index Recheck"):
        if node.get(key):
            parts.append(f"{key.lower()} {node[key]}")
    yield "  " * (depth + 1) + ", ".join(parts)
    for below in node.get("Plans", ()):
        yield from told(below, depth + 1)


def told_all(sides: Mapping[str, Side], steps: Sequence[str] = STEPS) -> Iterator[str]:
    """Return the plans of all steps in all states, as lines."""
    for state, side in sides.items():
        for step in steps:
            for plan in side.plans[step]:
                yield f"--- {step}, {state}"
                yield from told(plan)
