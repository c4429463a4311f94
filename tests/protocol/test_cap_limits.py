"""What a task may be registered with to run less often, and what a rate means."""

from __future__ import annotations

from typing import Any

import pytest

from vidan.errors import InputRejected
from vidan.protocol.caps import parse_rate
from vidan.run.run import Run
from vidan.tasks.app import Vidan


def spec_of(**caps: Any) -> Any:
    app = Vidan()

    @app.task(name="one", source=False, **caps)
    def one(run: Run) -> None:
        """Do nothing."""

    return app.tasks["one"].spec


def test_caps_are_stored_in_the_task() -> None:
    spec = spec_of(concurrency=2, rate_limit="10/m")
    assert (spec.concurrency, spec.rate_limit, spec.capped) == (2, "10/m", True)
    spec = spec_of()
    assert (spec.concurrency, spec.rate_limit, spec.capped) == (None, None, False)
    assert spec_of(concurrency=1).capped
    assert spec_of(rate_limit="1/h").capped


@pytest.mark.parametrize("concurrency", [0, -1, 2**31, True, 1.5, "2"])
def test_a_concurrency_is_a_whole_number_of_at_least_one(concurrency: Any) -> None:
    with pytest.raises(InputRejected, match="concurrency=") as rejected:
        spec_of(concurrency=concurrency)
    assert rejected.value.hint is not None
    assert "1 or more" in rejected.value.hint


@pytest.mark.parametrize(
    "rate", ["", "10", "0/s", "-1/s", "1.5/s", "10/d", "10 / m", "10/m\n", "1000000/s", "٣/s", 10]
)
def test_a_rate_is_so_many_a_second_a_minute_or_an_hour(rate: Any) -> None:
    with pytest.raises(InputRejected, match="rate_limit=") as rejected:
        spec_of(rate_limit=rate)
    assert rejected.value.hint is not None
    assert "10/m" in rejected.value.hint


@pytest.mark.parametrize(
    ("rate", "interval", "burst"),
    [("10/s", 0.1, 10), ("1/s", 1, 1), ("10/m", 6, 1), ("120/m", 0.5, 2), ("10/h", 360, 1)],
)
def test_a_rate_is_an_interval_and_what_may_start_after_a_pause(
    rate: str, interval: float, burst: float
) -> None:
    assert parse_rate(rate) == pytest.approx((interval, burst))
