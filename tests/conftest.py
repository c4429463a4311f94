from __future__ import annotations

pytest_plugins = [
    "tests.support.shell",
    "tests.support.postgres",
    "tests.support.home",
    "tests.support.kafka",
    "tests.support.cluster",
]
