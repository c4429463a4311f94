"""Tasks as the database knows them: published by workers, used to check new scenarios."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, text

from vidan.db.reading import Unreadable
from vidan.detection import catalogue
from vidan.errors import InputRejected, NotFoundError
from vidan.protocol import definitions, param_checks
from vidan.suggestions import did_you_mean


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task without its code.

    `max_attempts` is the number of retries. The time limits are seconds of one run. `concurrency`
    is how many scenarios of the task run at once in the whole cluster, `rate_limit` how often one
    starts (`10/m`).
    """

    name: str
    params_schema: dict[str, Any]
    needs_source: bool = True
    summary: str | None = None
    max_attempts: int = 3
    time_limit: float | None = None
    soft_time_limit: float | None = None
    concurrency: int | None = None
    rate_limit: str | None = None

    @property
    def capped(self) -> bool:
        """Whether it limits how many of its scenarios run at once, or how often one starts."""
        return self.concurrency is not None or self.rate_limit is not None

    @cached_property
    def definition(self) -> str:
        """The digest of its definition, which new scenarios keep."""
        return definitions.digest(self.params_schema, self.needs_source)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        return {
            "name": self.name,
            "needs_source": self.needs_source,
            "summary": self.summary,
            "retries": self.max_attempts,
            "max_attempts": self.max_attempts,
            "time_limit": self.time_limit,
            "soft_time_limit": self.soft_time_limit,
            "concurrency": self.concurrency,
            "rate_limit": self.rate_limit,
            "params": self.params_schema,
        }


DETECT = TaskSpec(
    name="detect",
    params_schema=dict(catalogue.DETECT_SCHEMA),
    summary="Detect objects in every frame of a video and store them.",
)
"""The built-in task, known before any worker has started."""

COLUMNS = tuple(one.name for one in fields(TaskSpec))
"""The columns of a task's row that the task's author decides."""

_LIST = ", ".join(COLUMNS)
_DEFINE = """
    INSERT INTO task_definitions (task, digest, params_schema, needs_source)
    SELECT name, definition, params_schema, needs_source
    FROM jsonb_populate_recordset(CAST(NULL AS tasks), CAST(:specs AS jsonb))
    ORDER BY name ON CONFLICT DO NOTHING
"""
_INTRODUCE = f"""
    INSERT INTO tasks ({_LIST}, definition)
    SELECT {_LIST}, definition
    FROM jsonb_populate_recordset(CAST(NULL AS tasks), CAST(:specs AS jsonb))
    ORDER BY name ON CONFLICT (name) DO NOTHING
"""
# `wanted` are the rows of tasks as they are to be.
_PUBLISH = f"""
    INSERT INTO tasks ({_LIST}, definition, version)
    SELECT {", ".join(f"w.{name}" for name in COLUMNS)}, w.definition, w.version
    FROM ({{wanted}}) w LEFT JOIN tasks t ON t.name = w.name
    WHERE t.name IS NULL OR t.version IS DISTINCT FROM w.version
       OR ({", ".join(f"t.{name}" for name in COLUMNS)}, t.definition)
          IS DISTINCT FROM ({", ".join(f"w.{name}" for name in COLUMNS)}, w.definition)
    ORDER BY w.name
    ON CONFLICT (name) DO UPDATE SET published_at = now(),
        rate_next = CASE WHEN tasks.rate_limit = excluded.rate_limit THEN tasks.rate_next END,
        {", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS, "definition", "version"))}
    RETURNING name
"""
_GIVEN = "SELECT * FROM jsonb_populate_recordset(CAST(NULL AS tasks), CAST(:specs AS jsonb))"


def publish(connection: Connection, specs: Sequence[TaskSpec]) -> None:
    """Let these tasks hold as they are given, whatever version of an app has published them."""
    rows = as_rows([spec for spec in specs if spec.name != DETECT.name])
    connection.execute(text(_DEFINE), {"specs": rows})
    connection.execute(text(_PUBLISH.format(wanted=_GIVEN)), {"specs": rows})


def introduce(connection: Connection, specs: Sequence[TaskSpec]) -> None:
    """Insert tasks that no worker has published yet; published ones stay as they are."""
    rows = as_rows(specs)
    connection.execute(text(_DEFINE), {"specs": rows})
    connection.execute(text(_INTRODUCE), {"specs": rows})


def define(connection: Connection, specs: Sequence[TaskSpec]) -> None:
    """Keep the definitions of tasks: workers compare them with their own."""
    connection.execute(text(_DEFINE), {"specs": as_rows(specs)})


def hold(connection: Connection, wanted: str) -> list[str]:
    """Let tasks hold as the SQL `wanted` selects them. Returns the names of changed tasks."""
    return list(connection.execute(text(_PUBLISH.format(wanted=wanted))).scalars())


def as_rows(specs: Sequence[TaskSpec]) -> str:
    """Return tasks as a JSON array of their rows."""
    return json.dumps([asdict(spec) | {"definition": spec.definition} for spec in specs])


def find(connection: Connection) -> list[TaskSpec]:
    """Return all tasks by name, the built-in one included."""
    found = connection.execute(
        text(f"SELECT {_LIST} FROM tasks WHERE name <> :builtin"),
        {"builtin": DETECT.name},
    ).mappings()
    return sorted([DETECT, *(TaskSpec(**row) for row in found)], key=lambda spec: spec.name)


def get(connection: Connection, name: str) -> TaskSpec:
    """Return a task. Raises NotFoundError, which names the existing tasks."""
    return known(connection, {name})[name]


def known(connection: Connection, names: Collection[str]) -> dict[str, TaskSpec]:
    """Return the tasks of these names. Raises NotFoundError, which names the existing tasks."""
    if set(names) <= {DETECT.name}:
        return {DETECT.name: DETECT}
    specs = {spec.name: spec for spec in find(connection)}
    for name in names:
        if name not in specs:
            raise NotFoundError(
                f"no task {name!r}",
                hint=f"{did_you_mean(name, specs)} A worker started with --app publishes its tasks",
            )
    return specs


def validate(spec: TaskSpec, params: Mapping[str, Any], source: str | None) -> None:
    """Check params and source against a task. Raises InputRejected, which names what is allowed."""
    if source is not None and not spec.needs_source:
        raise InputRejected(f"task {spec.name} takes no source")
    if source == "":
        raise InputRejected("a source can't be empty")
    if isinstance(spec.params_schema, Unreadable):
        raise InputRejected(
            f"task {spec.name}: its definition can't be read: {spec.params_schema.reason}",
            hint="a worker that has the task publishes it again when it starts",
        )
    size = None
    if spec.name == DETECT.name and isinstance(params.get("size"), str):
        # Checked here too: this message is clearer than that of the pattern in the schema.
        size = catalogue.parse_size(params["size"])
    if params or spec.params_schema.get("required"):  # jsonschema is slow to import
        param_checks.check(spec.name, spec.params_schema, params)
    if spec.name == DETECT.name:
        labels = params.get("labels")
        if labels is not None and len(set(labels)) < len(labels):
            raise InputRejected("labels: a label stands there twice", hint="name each label once")
        catalogue.check_model(
            params.get("model", catalogue.DEFAULT_MODEL), labels=labels, size=size
        )
        if "every" in params and "fps" in params:
            raise InputRejected("every and fps exclude each other", hint="give one of them")
