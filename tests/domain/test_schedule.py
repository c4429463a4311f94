from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from vidan.domain.schedule import AT_ONCE, Schedule, due, named, next_after
from vidan.errors import InputRejected
from vidan.run.run import Run
from vidan.tasks.app import Vidan

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY, HALF_HOURLY = "30 2 * * *", "*/30 * * * *"


def local(*when: int) -> datetime:
    return datetime(*when, tzinfo=BERLIN)  # type: ignore[misc, arg-type]


def following(cron: str, moment: datetime, count: int) -> list[str]:
    """The next times, as a clock in Berlin shows them."""
    found = []
    for _ in range(count):
        moment = next_after(cron, "Europe/Berlin", moment)
        found.append(moment.astimezone(BERLIN).strftime("%d %H:%M %z"))
    return found


def test_a_time_that_the_day_lacks_comes_right_after_the_gap() -> None:
    assert following(NIGHTLY, local(2026, 3, 28, 12), 2) == ["29 03:00 +0200", "30 02:30 +0200"]


def test_a_time_that_the_day_has_twice_comes_once() -> None:
    assert following(NIGHTLY, local(2026, 10, 24, 12), 2) == ["25 02:30 +0200", "26 02:30 +0100"]


def test_what_comes_all_the_time_keeps_its_pace_over_both_changes() -> None:
    for day in (local(2026, 3, 29), local(2026, 10, 25)):
        moment = day.astimezone(UTC)
        for _ in range(10):
            following_one = next_after(HALF_HOURLY, "Europe/Berlin", moment)
            assert following_one - moment == timedelta(minutes=30)
            moment = following_one


@pytest.mark.parametrize("catch_up", ["latest", "skip"])
def test_the_latest_of_the_doubled_hour_is_found(catch_up: str) -> None:
    now = local(2026, 10, 25, 3, 0).astimezone(UTC)
    times, following_one = due(
        HALF_HOURLY, "Europe/Berlin", catch_up, now - timedelta(hours=9), now
    )
    assert times == [now]
    assert following_one == now + timedelta(minutes=30)
    times, _ = due(NIGHTLY, "Europe/Berlin", "latest", now - timedelta(hours=9), now)
    assert times == [now - timedelta(minutes=90)]  # the first 02:30 of the two


DOUBLED = {
    "Europe/Berlin": datetime(2026, 10, 25, 0, tzinfo=UTC),
    "America/New_York": datetime(2026, 11, 1, 5, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 4, 4, 14, tzinfo=UTC),
    "America/Santiago": datetime(2026, 4, 5, 2, tzinfo=UTC),
}
"""Hours before the clocks go back."""


@pytest.mark.parametrize("zone", DOUBLED)
@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "45 1 * * *", "30 23 * * *", "15 1,2,3 * * *", "*/20 1-3 * * *"]
)
def test_in_the_doubled_hour_what_comes_next_is_not_past(zone: str, cron: str) -> None:
    for minute in range(150):
        moment = DOUBLED[zone] + timedelta(minutes=minute, seconds=1)
        assert next_after(cron, zone, moment) > moment


@pytest.mark.parametrize("catch_up", ["latest", "all"])
@pytest.mark.parametrize("zone", DOUBLED)
def test_in_the_doubled_hour_what_was_missed_is_found(zone: str, catch_up: str) -> None:
    for cron in (NIGHTLY, HALF_HOURLY, "45 1 * * *", "*/20 1-3 * * *"):
        times = [next_after(cron, zone, DOUBLED[zone] - timedelta(days=1))]
        for _ in range(70):
            times.append(next_after(cron, zone, times[-1]))
        for minute in range(0, 180, 5):
            now = DOUBLED[zone] + timedelta(minutes=minute, milliseconds=200)
            missed = [one for one in times if one <= now]
            expected = missed if catch_up == "all" else missed[-1:]
            assert due(cron, zone, catch_up, times[0], now) == (expected, times[len(missed)])


NOW = datetime(2026, 5, 1, 12, 0, 0, 500_000, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hours(*back: int) -> list[datetime]:
    return [NOW.replace(microsecond=0) - one * HOUR for one in back]


@pytest.mark.parametrize(
    ("catch_up", "since", "expected"),
    [
        ("latest", 3, hours(0)),
        ("all", 3, hours(3, 2, 1, 0)),
        ("skip", 3, hours(0)),  # that of now is not missed
        ("latest", 0, hours(0)),
        ("all", 0, hours(0)),
        ("skip", 0, hours(0)),
    ],
)
def test_missed_times(catch_up: str, since: int, expected: list[datetime]) -> None:
    (first,) = hours(since)
    assert due("0 * * * *", "UTC", catch_up, first, NOW) == (expected, hours(-1)[0])


def test_a_missed_time_is_skipped() -> None:
    late = NOW + timedelta(minutes=10)
    assert due("0 * * * *", "UTC", "skip", hours(3)[0], late) == ([], hours(-1)[0])
    assert due("0 * * * *", "UTC", "latest", hours(3)[0], late)[0] == hours(0)


@pytest.mark.parametrize("millisecond", [0, 1, 999])
@pytest.mark.parametrize("catch_up", ["skip", "latest", "all"])
def test_a_time_is_due_in_its_first_moment_and_not_before(catch_up: str, millisecond: int) -> None:
    (first,) = hours(0)
    at = first + timedelta(milliseconds=millisecond)
    assert due("0 * * * *", "UTC", catch_up, first, at) == ([first], first + HOUR)
    before = first - timedelta(milliseconds=millisecond or 1)
    assert due("0 * * * *", "UTC", catch_up, first, before) == ([], first)


def test_very_many_missed_times_are_made_up_for_in_parts() -> None:
    since = hours(0)[0] - timedelta(minutes=AT_ONCE + 4)
    times, then = due("* * * * *", "UTC", "all", since, NOW)
    assert len(times) == AT_ONCE
    times, then = due("* * * * *", "UTC", "all", then, NOW)
    assert len(times) == 5
    assert then == hours(0)[0] + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("cron", "options", "said"),
    [
        ("0 6 * *", {}, "Wrong number of fields"),
        ("61 * * * *", {}, "Bad minute"),
        ("0 0 30 2 *", {}, "Bad day-of-month"),
        ("0 6 * * *", {"timezone": "Mars/Olympus"}, "no time zone"),
        ("0 6 * * *", {"timezone": "../etc"}, "no time zone"),
        ("0 6 * * *", {"catch_up": "some"}, "catch_up"),
    ],
)
def test_what_is_no_schedule_is_refused(cron: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(InputRejected, match=said) as refused:
        Schedule(cron, **options)  # type: ignore[arg-type]
    assert refused.value.hint


def test_names() -> None:
    assert named(None, "count") == []
    (one,) = named("0 6 * * *", "count")
    assert (one.name, one.timezone, one.catch_up) == ("count", "UTC", "latest")
    two = named(["0 6 * * *", Schedule("0 18 * * *", name="evening")], "count")
    assert [one.name for one in two] == ["count", "evening"]
    with pytest.raises(InputRejected, match="two schedules have the same name"):
        named(["0 6 * * *", "0 18 * * *"], "count")


def quiet(run: Run) -> None:
    pass


def test_a_schedule_is_checked_against_its_task() -> None:
    app = Vidan()

    def count(run: Run, upto: int) -> int:
        return upto

    with pytest.raises(InputRejected, match="'upto' is a required property"):
        app.task(name="a", source=False, schedule="0 6 * * *")(count)
    given = Schedule("0 6 * * *", params={"upto": 3})
    app.task(name="b", source=False, schedule=given)(count)
    assert [one.name for one in app.tasks["b"].schedules] == ["b"]
    assert "a" not in app.tasks
    with pytest.raises(InputRejected, match="takes no source"):
        app.task(name="c", source=False, schedule=Schedule("0 6 * * *", source="/a"))(quiet)


@pytest.mark.parametrize(
    "wrong",
    [
        {"params": {"x": math.inf}},
        {"params": {"x": "a\x00"}},
        {"params": {"x": object()}},
        {"source": ""},
        {"source": 3},
        {"source": "/a\x00.mp4"},
        {"source": "/\udcff.mp4"},
        {"queue": ""},
        {"queue": None},
        {"queue": "a\x00"},
        {"queue": "q" * 2000},
        {"priority": 2**31},
        {"priority": 0.5},
        {"priority": "high"},
    ],
    ids=lambda wrong: f"{wrong}"[:30],
)
def test_what_its_scenarios_could_not_have_is_refused_with_its_name(wrong: dict[str, Any]) -> None:
    def look(run: Run, x: Any = None) -> None: ...

    app = Vidan()
    with pytest.raises(InputRejected, match=r"^schedule 'noon': "):
        app.task(name="look", schedule=Schedule("0 12 * * *", name="noon", **wrong))(look)
    assert app.tasks == {}


@pytest.mark.parametrize("source", ["clip.mp4", Path("clip.mp4")], ids=["text", "path"])
def test_a_local_source_is_absolute(
    source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = Vidan()
    given = [Schedule("0 6 * * *", source=source), Schedule("0 7 * * *", name="b")]
    app.task(name="a", schedule=given)(quiet)
    app.task(name="c", schedule=Schedule("0 6 * * *", source="rtsp://camera/1"))(quiet)
    sources = [one.source for task in app.tasks.values() for one in task.schedules]
    assert sources == [str(tmp_path / "clip.mp4"), None, "rtsp://camera/1"]
