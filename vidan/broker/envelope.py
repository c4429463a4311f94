"""Reading the one envelope that all messages have.

It stands apart from `messages.py` because pydantic's import is slow, and `vidan doctor --probe`
needs the names of the topics alone.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidan.domain.bounds import MAX_ID


class ScenarioEvent(BaseModel):
    """The envelope of both topics. Unknown keys are ignored: later versions may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    v: Annotated[int, Field(ge=1, le=1)]  # not a Literal, which would accept `true` for 1
    scenario_id: Annotated[int, Field(ge=1, le=MAX_ID)]


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
