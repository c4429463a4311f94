"""How long a scenario whose file a host lacks is left to others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vidan.worker import missing_sources
from vidan.worker.missing_sources import MissingSources


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `time.monotonic` says, as `now`."""
    one = SimpleNamespace(now=1000.0)
    one.monotonic = lambda: one.now
    monkeypatch.setattr(missing_sources, "time", one)
    return one


def test_others_have_a_minute(clock: SimpleNamespace) -> None:
    missing = MissingSources(patience=60)
    assert not missing.time_is_up(7, 0)
    assert missing.to_skip() == [7]
    clock.now += 60
    assert missing.to_skip() == []
    assert missing.time_is_up(7, 0)
    assert missing.time_is_up(7, 0)  # its end could not be written


def test_the_minute_begins_anew_when_another_has_got_on_with_it(clock: SimpleNamespace) -> None:
    missing = MissingSources(patience=60)
    assert not missing.time_is_up(7, 0)
    clock.now += 120
    assert not missing.time_is_up(7, 5000)
    assert missing.to_skip() == [7]
    clock.now += 59
    assert not missing.time_is_up(7, 5000)
    clock.now += 1
    assert missing.time_is_up(7, 5000)


def test_who_starts_it_again_has_the_whole_minute(clock: SimpleNamespace) -> None:
    missing = MissingSources(patience=60)
    missing.time_is_up(7, 0)
    clock.now += 60
    assert missing.time_is_up(7, 0)
    missing.forget(7)
    assert not missing.time_is_up(7, 0)


def test_what_was_long_ago_is_forgotten(clock: SimpleNamespace) -> None:
    missing = MissingSources(patience=60)
    missing.time_is_up(7, 0)
    clock.now += 601
    assert missing.to_skip() == []
    assert not missing.time_is_up(7, 0)
