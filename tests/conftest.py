"""The fixtures for all tests, and the markers that say of which kind a test is."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

# an example's time depends on what else the machine does: no test fails for it
settings.register_profile("vidan", deadline=None)
settings.load_profile("vidan")

pytest_plugins = [
    "tests.support.shell",
    "tests.support.postgres",
    "tests.support.pooler",
    "tests.support.home",
    "tests.support.kafka",
    "tests.support.cluster",
    "tests.support.kinds",
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what UTF-8 lacks: with it in a captured line, the report could not be sent."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
