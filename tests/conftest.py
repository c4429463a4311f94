"""The fixtures for all tests, and the markers that say of which kind a test is."""

from __future__ import annotations

pytest_plugins = [
    "tests.support.shell",
    "tests.support.postgres",
    "tests.support.home",
    "tests.support.kafka",
    "tests.support.cluster",
    "tests.support.kinds",
]
