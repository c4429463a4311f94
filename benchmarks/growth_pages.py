"""Stores very many predictions and reads pages of them at random places."""

from __future__ import annotations

import gc
import random
import shutil
import struct
import threading
import time
from collections.abc import Callable
from datetime import date, timedelta

import psycopg

from benchmarks import report
from vidan.cli.selection import PAGE, Selection
from vidan.db.session import Database
from vidan.protocol import partitions
from vidan.services import predictions, scenarios

FRAMES = 20_000
"""Frames per scenario."""
DETECTIONS = 4
"""Detections per frame."""
WEEKS = 8
AT_ONCE = 50
"""Scenarios of a week that are stored in parallel, one commit of each in turn."""
COMMIT = 100
"""Frames per commit."""
BYTES_A_FRAME = 280
"""Most bytes on disk per frame: `make` uses at most half of the free space."""
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def _field(packed: bytes) -> bytes:
    return struct.pack("!i", len(packed)) + packed


def _array(oid: int, items: list[bytes]) -> bytes:
    dimensions = struct.pack("!iiiii", 1, 0, oid, len(items), 1)
    return _field(dimensions + b"".join(map(_field, items)))


def _row(scenario_id: int, frame: int, week: int) -> bytes:
    """Return a frame in the format of binary COPY; boxes and scores differ between frames."""
    scores = [struct.pack("!f", 0.4 + (frame * 7 + n * 13) % 50 / 100) for n in range(DETECTIONS)]
    boxes = [struct.pack("!f", (frame * 3 + n * 97) % 1900 + 0.25) for n in range(4 * DETECTIONS)]
    return b"".join(
        (
            struct.pack("!h", 7),
            _field(struct.pack("!q", scenario_id)),
            _field(struct.pack("!q", frame)),
            _field(struct.pack("!i", week)),
            _field(struct.pack("!q", frame * 40)),
            _array(21, [struct.pack("!h", n % 3) for n in range(DETECTIONS)]),
            _array(700, scores),
            _array(700, boxes),
        )
    )


ID_AT, WEEK_AT = 6, 30  # their offsets in a row, in bytes


class Pages:
    """Stores predictions in a database and times pages of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        with Database(url).begin() as connection:
            self._monday = partitions.this_week(connection)

    def make(self, count: int) -> None:
        """Store `count` frames in WEEKS weeks, fewer if the disk is small; weeks are complete."""
        with psycopg.connect(self._url) as connection:
            ((folder,),) = connection.execute("SHOW data_directory").fetchall()
        _, _, free = shutil.disk_usage(folder)
        most = min(count, free // 2 // BYTES_A_FRAME)
        each = max(AT_ONCE, most // WEEKS // FRAMES // AT_ONCE * AT_ONCE)
        weeks = [self._monday - timedelta(weeks=1 + n) for n in range(WEEKS)]
        todo = [week for week in weeks if not self._there(week)]
        template = b"".join(_row(0, frame, 0) for frame in range(FRAMES))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    if not todo:
                        return
                    week = todo.pop()
                began = time.monotonic()
                self._make_week(week, each, template)
                rate = each * FRAMES / (time.monotonic() - began)
                print(f"{week}: {each * FRAMES:,} frames, {rate:,.0f} a second", flush=True)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _there(self, week: date) -> bool:
        with psycopg.connect(self._url) as connection:
            found = connection.execute(
                "SELECT to_regclass(%s)", [f"predictions_{week:%Y%m%d}"]
            ).fetchone()
        return found != (None,)

    def _make_week(self, week: date, each: int, template: bytes) -> None:
        """Store a week in one transaction: so its new table needs no WAL and appears at once."""
        name = f"predictions_{week:%Y%m%d}"
        size = len(template) // FRAMES
        days = struct.pack("!i", (week - date(2000, 1, 1)).days)
        with psycopg.connect(self._url) as connection:
            ids = [
                one
                for (one,) in connection.execute(
                    "SELECT id FROM scenarios WHERE week = %s AND status = 'completed'"
                    " ORDER BY id LIMIT %s",
                    [week, each],
                )
            ]
            assert len(ids) == each, f"only {len(ids)} scenarios ended in the week of {week}"
            connection.execute(
                f"CREATE TABLE {name} (LIKE predictions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
            )
            columns = "scenario_id, frame, week, time_ms, label_ids, scores, boxes"
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY {name} ({columns}) FROM STDIN (FORMAT BINARY, FREEZE)") as copy,
            ):
                copy.write(HEADER)
                for first in range(0, each, AT_ONCE):
                    for start in range(0, FRAMES, COMMIT):
                        piece = template[start * size : (start + COMMIT) * size]
                        for one in ids[first : first + AT_ONCE]:
                            copy.write(_addressed(piece, size, struct.pack("!q", one), days))
                copy.write(struct.pack("!h", -1))
            connection.execute(
                f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES IN ('{week}')"
            )

    def rows(self, calls: int = 1_000) -> list[report.Row]:
        """Time pages of 1000 frames at random places, and the queries of `predictions watch`."""
        with psycopg.connect(self._url) as connection:
            ((frames, size),) = connection.execute(
                "SELECT sum(c.reltuples)::bigint, sum(pg_total_relation_size(c.oid))::bigint"
                " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'predictions'::regclass AND c.reltuples > 0"
            ).fetchall()
            ids = [
                one
                for (one,) in connection.execute(
                    "SELECT DISTINCT scenario_id FROM predictions TABLESAMPLE SYSTEM (0.1)"
                )
            ]
        database = Database(self._url, guarded=True)
        found = [
            report.Row("predictions stored", None, {"frames": frames}),
            report.Row("bytes a frame on disk, index included", None, {"bytes": size / frames}),
        ]
        for name, work in (
            ("page of 1000 frames", _page),
            (f"poll of a watch, {PAGE} frames", _look),
        ):
            seconds = [self._timed(database, work, random.choice(ids)) for _ in range(calls)]
            figures = {
                "p50 ms": 1000 * report.quantile(seconds, 0.5),
                "p99 ms": 1000 * report.quantile(seconds, 0.99),
            }
            promise = "<= 1, of 10 ms" if work is _look else ""
            found.append(report.Row(name, figures["p99 ms"] / 10, {**figures}, promise))
        database.close()
        return found

    def _timed(
        self, database: Database, work: Callable[[Database, int, int], int], scenario_id: int
    ) -> float:
        after = random.randrange(-1, FRAMES - 1001)
        gc.disable()
        began = time.perf_counter()
        frames = work(database, scenario_id, after)
        seconds = time.perf_counter() - began
        gc.enable()
        assert frames in (PAGE, 1000)
        return seconds


def _page(database: Database, scenario_id: int, after: int) -> int:
    with database.begin() as connection:
        return len(predictions.read_after(connection, scenario_id, after, limit=1000))


def _look(database: Database, scenario_id: int, after: int) -> int:
    with database.begin() as connection:
        scenarios.find(connection, ids=[scenario_id], limit=1)
    selection = Selection(after, None, None, (), 0.0, False)
    return len(selection.page(database, scenario_id))


def _addressed(piece: bytes, size: int, scenario_id: bytes, week: bytes) -> bytes:
    rows = bytearray(piece)
    for at in range(0, len(rows), size):
        rows[at + ID_AT : at + ID_AT + 8] = scenario_id
        rows[at + WEEK_AT : at + WEEK_AT + 4] = week
    return bytes(rows)
