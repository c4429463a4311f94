"""The wire format: names of topics and groups, and the one envelope that all messages have.

A message is a hint that there is work. It carries an id, never state:
`{"v": 1, "scenario_id": 42}`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidan.domain.bounds import MAX_ID

SCENARIOS_TOPIC = "scenarios"
"""Announcements of scenarios to run. Read by the workers."""

RETRY_TOPIC = "retry_topic"
"""Scenarios whose run failed and may be retried. Read by the orchestrators."""

TOPICS = (SCENARIOS_TOPIC, RETRY_TOPIC)

RUNNERS_GROUP = "runners_group"
ORCHESTRATORS_GROUP = "orchestrators_group"


class ScenarioEvent(BaseModel):
    """The envelope of both topics. Unknown keys are ignored: later versions may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    v: Annotated[int, Field(ge=1, le=1)]  # not a Literal, which would accept `true` for 1
    scenario_id: Annotated[int, Field(ge=1, le=MAX_ID)]


def encode(scenario_id: int) -> bytes:
    """Return the payload that announces a scenario. Raises ValueError for an id outside 1…2⁶³-1."""
    if not 1 <= scenario_id <= MAX_ID:
        raise ValueError(f"scenario id {scenario_id} is outside 1…{MAX_ID}")
    return b'{"v": 1, "scenario_id": %d}' % scenario_id


def decode(payload: bytes | None) -> ScenarioEvent:
    """Return the event in a payload. Raises ValueError, in one line, for anything else."""
    if payload is None:
        raise ValueError("the message is empty (a tombstone)")
    try:
        return ScenarioEvent.model_validate_json(payload)
    except ValidationError as error:
        raise ValueError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    # The location is a key of the envelope, never a key of the sender: no foreign text is logged.
    return f"not a scenario event: {where + ': ' if where else ''}{first['msg']}"
