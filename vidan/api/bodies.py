"""Bodies of requests and answers: those of the first system, with added fields."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vidan.detection.catalogue import MAX_PATH
from vidan.domain.bounds import MAX_NAME_BYTES
from vidan.domain.status import Status


class Creation(BaseModel):
    """Body of `POST /scenario/`. An unknown key is refused, since it may be misspelt."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"status": "init_startup", "source": "street.mp4"}]},
    )

    status: Status = Field(
        description="`init_startup` queues it; `inactive` creates it without starting it"
    )
    source: str | None = Field(
        None,
        max_length=MAX_PATH,
        description="a video below a folder of VIDAN_SOURCE_ROOTS: an absolute path, or one "
        "relative to such a folder. Without it, a worker started with a source takes the scenario",
    )
    task: str = Field(
        "detect",
        max_length=MAX_NAME_BYTES,
        description="a task that a worker has published, or `detect`",
    )
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the task")
    key: str | None = Field(
        None,
        description="if a scenario has this key already, its id is returned and none is created: "
        "so a request can be repeated. If its task, source or params differ, the answer is 409",
    )
    key_reuse: bool = Field(
        False, description="return the scenario that has the key, even if its work differs"
    )
    retry_failed: bool = Field(
        False,
        description="if the scenario that has the key has failed or was stopped, it resumes",
    )


class Created(BaseModel):
    """Answer to `POST /scenario/`."""

    scenario_id: int = Field(examples=[1])


class Change(BaseModel):
    """Body of `POST /scenario/{scenario_id}/`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"status": "active"}]}
    )

    status: Status = Field(
        description="`active` or `init_startup` start it, `inactive` or `init_shutdown` stop it"
    )


class Updated(BaseModel):
    """Answer to `POST /scenario/{scenario_id}/`; the id is a string in it."""

    status: Literal["updated"] = "updated"
    scenario_id: str = Field(examples=["1"])


class ScenarioStatus(BaseModel):
    """Answer to `GET /scenario/{scenario_id}/`."""

    id: int = Field(examples=[1])
    status: Status


class LogLine(BaseModel):
    """One line of the log of a scenario's runs."""

    line: int = Field(examples=[1])
    at: str = Field(examples=["2026-11-25T00:15:47.575000+00:00"])
    level: str = Field(examples=["info"])
    logger: str = Field(examples=["vidan.runner"])
    message: str = Field(examples=["completed after 8.1 s"])
    epoch: int | None = Field(description="The number of the run", examples=[1])
    traceback: str | None


class ScenarioLogs(BaseModel):
    """Answer to `GET /scenario/{scenario_id}/logs/`."""

    id: int = Field(examples=[1])
    cut: int = Field(description="How many lines are not kept any more", examples=[0])
    lines: list[LogLine]


class Found(BaseModel):
    """One detection. Only `detail=true` adds the fields after `class` and `confidence`."""

    label: str = Field(alias="class", examples=["person"])
    confidence: float | None = Field(
        description="0 to 1; null if the detector returned NaN or infinity", examples=[0.95]
    )
    frame: int | None = Field(None, description="counted from 0, in presentation order")
    time_ms: int | None = Field(None, description="milliseconds since the first frame")
    box: list[float | None] | None = Field(
        None, description="x1, y1, x2, y2 in pixels of the source's frame"
    )
    track_id: int | None = None


class FoundList(BaseModel):
    """The inner object of the answer."""

    predictions: list[Found]


class Predictions(BaseModel):
    """Answer to `GET /prediction/{scenario_id}/`."""

    scenario_id: int = Field(examples=[1])
    predictions: FoundList


class Problem(BaseModel):
    """What went wrong, in one line: the shape of every answer that is not 200."""

    detail: str = Field(examples=["body.status: Field required"])
