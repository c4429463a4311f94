"""The wire format: names of topics and groups, and the one payload that all messages have.

A message is a hint that there is work. It carries an id, never state:
`{"v": 1, "scenario_id": 42}`. `vidan/broker/envelope.py` reads it.
"""

from __future__ import annotations

from vidan.domain.bounds import MAX_ID

SCENARIOS_TOPIC = "scenarios"
"""Announcements of scenarios to run. Read by the workers."""

RETRY_TOPIC = "retry_topic"
"""Scenarios whose run failed and may be retried. Read by the orchestrators."""

TOPICS = (SCENARIOS_TOPIC, RETRY_TOPIC)

RUNNERS_GROUP = "runners_group"
ORCHESTRATORS_GROUP = "orchestrators_group"


def encode(scenario_id: int) -> bytes:
    """Return the payload that announces a scenario. Raises ValueError for an id outside 1…2⁶³-1."""
    if not 1 <= scenario_id <= MAX_ID:
        raise ValueError(f"scenario id {scenario_id} is outside 1…{MAX_ID}")
    return b'{"v": 1, "scenario_id": %d}' % scenario_id
