"""The fixtures for all tests, and the markers that say of which kind a test is."""

from __future__ import annotations

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
