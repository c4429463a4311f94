"""Listings: whole in a pipe, with --quiet and --json; cut in a terminal, which is told."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from tests.support.terminal import in_terminal
from vidan.cli import listing
from vidan.db.session import Database
from vidan.domain.bounds import PAGE
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import dead_letters
from vidan.services.dead_letters import NewLetter

MANY = 2 * PAGE + 345
"""More than two pages, and not a whole number of pages."""


def create(database: Database, count: int, **given: object) -> list[int]:
    new = [NewScenario(source=f"/v/{n}.mp4", **given) for n in range(count)]  # type: ignore[arg-type]
    with database.begin() as connection:
        return [one.id for one in creation.create_many(connection, new)]


def change(database: Database, sql: str, **values: object) -> None:
    with database.begin() as connection:
        connection.execute(text(sql), values)


def ids(shell: Shell, *words: object) -> list[int]:
    ended = shell("scenario", "list", "--quiet", *words)
    assert (ended.code, ended.err) == (0, "")
    return [int(line) for line in ended.out.splitlines()]


def seen(shell: Shell, *words: str) -> str:
    written = re.sub(r"\x1b\[[\d;]*m", "", in_terminal(shell, *words, COLUMNS="200"))
    return re.sub(r"^database: .*\n", "", written)


def rows_seen(shown: str) -> list[int]:
    return [int(found) for found in re.findall(r"^ *(\d+)  +\w", shown, re.M)]


# --- scenarios


def test_a_pipe_gets_every_scenario(vidan: Shell, database: Database) -> None:
    newest_first = create(database, MANY)[::-1]
    assert ids(vidan) == newest_first
    assert [one["id"] for one in vidan("scenario", "list", "--json").json()] == newest_first
    lines = vidan("scenario", "list").out.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == newest_first
    for sort, expected in (("id", newest_first[::-1]), ("created", newest_first[::-1])):
        assert ids(vidan, "--sort", sort) == expected
    for limit in (1, PAGE, PAGE + 1, MANY, MANY + 1):
        assert ids(vidan, "--limit", limit) == newest_first[:limit]
        assert ids(vidan, "--limit", limit, "--sort", "-created") == newest_first[:limit]


def test_status_and_label_are_listed_whole_too(vidan: Shell, database: Database) -> None:
    labelled = create(database, MANY, labels={"batch": "7"})
    create(database, 3)
    change(database, "UPDATE scenarios SET status = 'failed' WHERE id % 2 = 0")
    assert ids(vidan, "--label", "batch=7") == labelled[::-1]
    even = [one for one in labelled[::-1] if one % 2 == 0]
    assert ids(vidan, "--status", "failed", "--label", "batch=7") == even


def test_a_terminal_shows_50_and_says_how_many_more(vidan: Shell, database: Database) -> None:
    newest_first = create(database, 50)[::-1]
    shown = seen(vidan, "scenario", "list")
    assert rows_seen(shown) == newest_first
    assert "more" not in shown
    newest_first = create(database, 1234)[::-1] + newest_first
    shown = seen(vidan, "scenario", "list")
    assert rows_seen(shown) == newest_first[:50]
    assert "50 shown, 1,234 more: --all" in shown
    shown = seen(vidan, "scenario", "list", "--limit", "7", "--status", "init_startup")
    assert rows_seen(shown) == newest_first[:7]
    assert "7 shown, 1,277 more" in shown
    shown = seen(vidan, "scenario", "list", "--all")
    assert rows_seen(shown) == newest_first
    assert "more" not in shown
    for option in ("--json", "--quiet"):
        shown = seen(vidan, "scenario", "list", option)
        assert "more" not in shown
        found = [one["id"] for one in json.loads(shown)] if option == "--json" else shown.split()
        assert list(map(int, found)) == newest_first


def test_what_is_too_much_to_count_is_said_to_be_more(vidan: Shell, database: Database) -> None:
    change(database, "INSERT INTO scenarios (source) SELECT '/v' FROM generate_series(1, 10051)")
    assert "50 shown, more than 9,950 more" in seen(vidan, "scenario", "list")


def test_json_in_a_terminal_is_indented_as_one_array(vidan: Shell, database: Database) -> None:
    create(database, 2, name="two\nlines \u2028 and more")
    with database.begin() as connection:  # without a history no time of waiting goes on
        connection.execute(text("DELETE FROM transitions"))
    shown = seen(vidan, "scenario", "list", "--json")
    found = json.loads(shown)
    assert [one["name"] for one in found] == ["two\nlines \u2028 and more"] * 2
    assert shown.rstrip() == json.dumps(found, indent=2, ensure_ascii=False)
    assert vidan("scenario", "list", "--json").out == json.dumps(found, ensure_ascii=False) + "\n"


def test_source_queue_and_since_narrow(vidan: Shell, database: Database) -> None:
    with database.begin() as connection:
        a, percent, other, none = (
            one.id
            for one in creation.create_many(
                connection,
                [
                    NewScenario(source="/v/north/a.mp4"),
                    NewScenario(source="/v/north/100%_b.mp4", queue="night"),
                    NewScenario(source="/v/south/a.mp4", queue="night"),
                    NewScenario(source="rtsp://camera/\\x"),
                ],
            )
        )
    assert ids(vidan, "--source", "/v/north/a.mp4") == [a]
    assert ids(vidan, "--source", "/v/nor_h/a.mp4") == []
    assert ids(vidan, "--source", "*/north/*") == [percent, a]
    assert ids(vidan, "--source", "*%_b*") == [percent]
    assert ids(vidan, "--source", "rtsp://camera/\\x") == [none]
    assert ids(vidan, "--source", "*/a.mp4", "--queue", "night") == [other]
    assert ids(vidan, "--queue", "nowhere") == []
    change(database, "UPDATE scenarios SET created_at = '2026-01-02 12:00+00' WHERE id = :a", a=a)
    assert ids(vidan, "--since", "1h") == [none, other, percent]
    assert ids(vidan, "--since", "2026-01-02T12:00+00:00") == [none, other, percent, a]
    assert ids(vidan, "--since", "2026-01-02T12:00:01+00:00", "--queue", "default") == [none]


def test_a_relative_source_is_the_one_that_create_stored(vidan: Shell, database: Database) -> None:
    (one,) = ids_of = list(map(int, vidan("scenario", "create", "--no-check", "a.mp4").out.split()))
    create(database, 2)
    assert ids(vidan, "--source", "a.mp4") == [one] == ids_of


@pytest.mark.parametrize(
    ("column", "key", "values"),
    [
        ("frames_done", "frames", (30, 10, 20)),
        ("priority", "priority", (3, 1, 2)),
        ("name", "name", ("c", "B", "a")),
        ("ended_at", "ended", tuple(datetime(2026, 1, d, tzinfo=UTC) for d in (3, 1, 2))),
        ("started_at", "started", tuple(datetime(2026, 1, d, tzinfo=UTC) for d in (3, 1, 2))),
    ],
)
def test_sorted(
    vidan: Shell, database: Database, column: str, key: str, values: Sequence[object]
) -> None:
    made = create(database, 4)
    for one, value in zip(made, values, strict=False):
        change(database, f"UPDATE scenarios SET {column} = :v WHERE id = :i", v=value, i=one)
    order = sorted(made[:3], key=lambda one: values[made.index(one)])  # type: ignore[arg-type,return-value]
    last = made[3:]  # without the value; 0 frames and priority 0 are values
    if column in ("frames_done", "priority"):
        assert ids(vidan, "--sort", key) == last + order
    else:
        assert ids(vidan, "--sort", key) == order + last
    assert ids(vidan, "--sort", f"-{key}") == order[::-1] + last


def test_wrong_options_are_named(vidan: Shell) -> None:
    for words, said in (
        (["--sort", "size"], "there are id, name"),
        (["--limit", "0"], "--limit"),
        (["--limit", "3", "--all"], "exclude"),
        (["--since", "soon"], "--since"),
    ):
        ended = vidan("scenario", "list", *words)
        assert ended.code == 2
        assert said in ended.err


def test_rows_that_move_are_listed_once(
    vidan: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidan.services.filters import Filters, Order

    made = create(database, 6)
    monkeypatch.setattr(listing, "PAGE", 2)
    found = []
    for one in listing.scenarios(database, Filters(), Order("frames", descending=False), None):
        found.append(one.id)
        change(
            database,
            "UPDATE scenarios SET frames_done = frames_done + 10 WHERE id = :id",
            id=one.id,
        )
    assert found == made


# --- the other listings


def test_dead_letters_and_failures_are_listed_whole(vidan: Shell, database: Database) -> None:
    with database.begin() as connection:
        dead_letters.add(
            connection,
            [
                NewLetter("scenarios", 0, n, 1000, None, b"garbage", "not JSON")
                for n in range(PAGE + 5)
            ],
        )
    failed = create(database, 60)
    change(
        database, "UPDATE scenarios SET status = 'failed', ended_at = now() + id * '1s'::interval"
    )
    entries = [(one["kind"], one["id"]) for one in vidan("dead", "list", "--json").json()]
    assert entries[:60] == [("scenario", one) for one in failed[::-1]]
    assert len(set(entries)) == len(entries) == 60 + PAGE + 5
    quiet = vidan("dead", "list", "--kind", "scenario", "--quiet")
    assert list(map(int, quiet.out.split())) == failed[::-1]
    shown = seen(vidan, "dead", "list")
    assert f"50 shown, {10 + PAGE + 5:,} more" in shown
    assert "`vidan scenario retry" in shown
    change(database, "UPDATE dead_letters SET received_at = now() - interval '2 d' WHERE id > 3")
    recent = vidan("dead", "list", "--kind", "message", "--since", "1d", "--quiet").out.split()
    assert sorted(map(int, recent)) == [1, 2, 3]


def test_workers_and_schedules_say_how_many_more(vidan: Shell, database: Database) -> None:
    for number in range(53):
        PlayedWorker(database, f"w{number:02}@test")
    change(database, "UPDATE workers SET lease_until = now() + interval '1 h'")
    assert len(vidan("workers", "list").out.splitlines()) == 53
    shown = seen(vidan, "workers", "list")
    assert "50 shown, 3 more" in shown
    assert "w49@test" in shown
    assert "w50@test" not in shown
    assert "w52@test" in seen(vidan, "workers", "list", "--all")
    assert "52 shown, 1 more" in seen(vidan, "workers", "list", "--limit", "52")
    assert len(vidan("workers", "list", "--limit", 2).out.splitlines()) == 2
    change(
        database,
        "INSERT INTO schedules (name, app, task, cron, timezone, next_at) SELECT 's' || n, 'a',"
        " 'detect', '0 6 * * *', 'UTC', now() + interval '1 d' FROM generate_series(1, 51) n",
    )
    assert len(vidan("schedules", "list").out.splitlines()) == 51
    assert "50 shown, 1 more" in seen(vidan, "schedules", "list")
