"""Signature: a call of a task that is to be made later, when the scenario before it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from os import PathLike
from typing import Any

from vidan.domain.bounds import DEFAULT_QUEUE
from vidan.domain.durations import Duration
from vidan.protocol.creation import NewScenario
from vidan.tasks.calls import check_times, seconds, stored_source


@dataclass(frozen=True, slots=True)
class Signature:
    """A task with its params and options; `Task.signature(…)` makes one.

    The options are those of `Task.apply`. `then` are created when it completes, `on_failure` when
    it fails. `after` counts from the time of its creation. For one that is created later, a `key`
    that exists means that none is created.
    """

    task: str
    params: Mapping[str, Any] = field(default_factory=dict)
    source: str | PathLike[str] | None = None
    at: datetime | None = None
    after: Duration | None = None
    name: str | None = None
    key: str | None = None
    key_reuse: bool = False
    retry_failed: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    retries: int | None = None
    time_limit: Duration | None = None
    soft_time_limit: Duration | None = None
    then: Signature | Sequence[Signature] = ()
    on_failure: Signature | Sequence[Signature] = ()

    def set(self, **options: Any) -> Signature:
        """Return the same call with other options: `task.signature(a=1).set(queue="slow")`."""
        return replace(self, **options)

    def new(self) -> NewScenario:
        """Return the scenario that it describes, a local source as an absolute path.

        Whether the source exists is not checked here, since the scenario before may make it;
        `Task.signature` checks it.
        """
        check_times(self.at, self.after)
        return NewScenario(
            task=self.task,
            params=self.params,
            source=stored_source(self.source, check=False),
            name=self.name,
            key=self.key,
            key_reuse=self.key_reuse,
            retry_failed=self.retry_failed,
            labels=self.labels,
            queue=self.queue,
            priority=self.priority,
            not_before=self.at,
            after=seconds(self.task, "after", self.after),
            max_attempts=self.retries,
            time_limit=seconds(self.task, "time_limit", self.time_limit),
            soft_time_limit=seconds(self.task, "soft_time_limit", self.soft_time_limit),
            then=new_scenarios(self.then),
            on_failure=new_scenarios(self.on_failure),
        )


def new_scenarios(signatures: Signature | Sequence[Signature]) -> tuple[NewScenario, ...]:
    """Return the scenarios that one or several signatures describe."""
    several = (signatures,) if isinstance(signatures, Signature) else signatures
    return tuple(one.new() for one in several)
