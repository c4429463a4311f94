"""`vidan run`: analyse videos on this machine and print a summary of each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, failures, following
from vidan.cli.command import Commands
from vidan.cli.commands.run import results as run_results
from vidan.cli.options import completion, devices
from vidan.cli.options.devices import CpusOption, GpusOption
from vidan.cli.options.params import (
    MaxLost,
    MaxLostOption,
    RecursiveOption,
    SkipBadOption,
    names,
)
from vidan.cli.own_workers import OwnWorkers
from vidan.cli.terminal.output import Output
from vidan.detection import catalogue
from vidan.domain.bounds import DECODERS
from vidan.domain.status import ENDED, STOPPING
from vidan.errors import UsageError, VidanError
from vidan.protocol import creation
from vidan.services import resumption
from vidan.video.container import local_path
from vidan.video.notes import Watch
from vidan.video.opening import is_local

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.domain.worker import WorkerOptions
    from vidan.services.scenarios import Scenario
    from vidan.stack import Membership

STOP_SECONDS = 30.0
"""Longest wait, in seconds, for the scenario to stop after Ctrl-C."""

CHECK_SECONDS = 1.0
"""Pause between two checks of the stack and the workers, in seconds."""

REPORT_SECONDS = 10.0
"""Pause between two lines about the progress where there is no progress bar, in seconds."""

ACTOR = "vidan run"
"""Who created and stopped the scenario, in its history."""

commands = Commands("run")


@commands.command(
    "run",
    database=False,
    examples="""
        vidan run --sample                     analyse the video in the package
        vidan run street.mp4 --out results     results/predictions.jsonl, results/annotated.mp4
        vidan run /videos --recursive --skip-bad --out results
        vidan run street.mp4 --labels person,car --min-score 0.5 --every 5
        vidan run street.mp4 --json | jq .frames_with
    """,
)
def run(
    out: Output,
    settings: Settings,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="Video files, URLs, or folders."),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Write the results to this folder."),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the video in the package.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            autocompletion=completion.models,
            help=f"Detection model, see `vidan models list` [{catalogue.DEFAULT_MODEL}].",
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights file [the model's own].")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=f"Drop detections scoring below X [{catalogue.DEFAULT_MIN_SCORE}]."
        ),
    ] = None,
    labels: Annotated[
        Any,
        typer.Option(metavar="A,B", parser=names, help="Keep detections of these labels [all]."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Input of the model, in pixels [the model's own]."),
    ] = None,
    every: Annotated[
        int | None, typer.Option(metavar="N", help="Analyse every Nth frame [1].")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="F", help="Analyse F frames per second of video [all]."),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(metavar="D", help=f"{' or '.join(DECODERS)} [{DECODERS[0]}]."),
    ] = None,
    recursive: RecursiveOption = False,
    skip_bad: SkipBadOption = False,
    from_beginning: Annotated[
        bool,
        typer.Option(
            "--from-beginning", help="Analyse anew what an interrupted run has begun already."
        ),
    ] = False,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Analyse one field of interlaced pictures.")
    ] = False,
    max_lost: MaxLostOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
) -> int:
    """Analyse videos on this machine, without any other service, and print a summary of each.

    It starts the database, broker, orchestrator and workers that a cluster uses too, and stops them
    afterwards. What an interrupted run of the same file with the same options has stored is kept,
    and the analysis resumes there. Of several sources each gets a folder of its own in --out, named
    after the file; all that can't be read are named, and --skip-bad analyses the others. Exit code
    0: completed; 5: failed; 6: stopped by another command; 11: more frames lost than --max-lost
    allows; 130: stopped by Ctrl-C.
    """
    from vidan.cli.gathering import gather

    given = {
        "model": model, "weights": weights, "min_score": min_score, "labels": labels,
        "size": size, "every": every, "fps": fps, "decoder": decoder,
        "deinterlace": deinterlace or None,
    }  # fmt: skip
    places = _places(sources or [], sample)
    found = gather(out, places, check=True, recursive=recursive, skip_bad=skip_bad)
    found = list(dict.fromkeys(found))
    params = catalogue.detect_params(
        {name: value for name, value in given.items() if value is not None}, check=True
    )
    for place in found:
        _validate(params, place)
    results = None if folder is None else run_results.folders(Path(folder), found)
    queue = f"{resumption.QUEUE_PREFIX}{uuid.uuid4().hex[:8]}"
    posts = devices.posts(gpus, cpus, name=queue, queues=[queue], app=settings.app)
    connect.note_unused(settings, out, "run")
    from vidan import stack

    with stack.join(settings, on_progress=out.note) as member:
        database = connect.open_database(member.settings)
        try:
            task = _Run(out, member, database, found, params, queue, posts, results, max_lost)
            return task.run(anew=from_beginning)
        finally:
            database.close()


def _places(sources: Sequence[str], sample: bool) -> list[str]:
    if sample and sources:
        raise UsageError("--sample and a source exclude each other", hint="give one of them")
    if not sample and not sources:
        raise UsageError("a source is needed, or --sample", hint="vidan run VIDEO")
    return [str(catalogue.sample_video())] if sample else list(sources)


def _validate(params: dict[str, Any], source: str) -> None:
    """Refuse invalid parameters before a stack is started for them."""
    from vidan.protocol import tasks

    tasks.validate(tasks.DETECT, params, source)


@dataclass
class _Run:
    """One call of the command, once the stack runs."""

    out: Output
    member: Membership
    database: Database
    sources: Sequence[str]
    params: dict[str, Any]
    queue: str
    posts: Sequence[WorkerOptions]
    results: Mapping[str, Path] | None
    max_lost: MaxLost | None
    checked: float = 0.0
    reported: dict[int, float] = field(default_factory=dict)
    resumed: set[str] = field(default_factory=set)
    """The queues of the runs whose scenarios were taken over."""

    def run(self, *, anew: bool) -> int:
        """Queue the scenarios for workers of its own, wait for their end, print the summaries."""
        ids = self._queue(anew=anew)
        log = None if self.out.debug else self.member.settings.home / "logs" / "workers.log"
        try:
            with OwnWorkers(self.member.settings, self.posts, log) as workers:
                found = self._follow(ids, workers)
        except KeyboardInterrupt:
            run_results.say_how_to_resume(self.database, self.out, ids, self.queue)
            return failures.INTERRUPTED
        for source, scenario in zip(self.sources, found, strict=True):
            folder = None if self.results is None else self.results[source]
            written = run_results.write(self.database, self.out, scenario, folder)
            run_results.summarise(self.database, self.out, scenario, folder, written)
        run_results.name_unfinished(self.database, self.out, apart_from=ids)
        lacking = following.incomplete(self.out, found, self.max_lost)
        return following.worst([one.status for one in found]) or lacking

    def _queue(self, *, anew: bool) -> list[int]:
        """Resume what an interrupted run has left, and create the other scenarios, all at once."""
        ids: dict[str, int] = {}
        if not anew:
            for source in self.sources:
                if (left := self._resume(source)) is not None:
                    ids[source] = left
            ids |= self._completed([source for source in self.sources if source not in ids])
        new = [source for source in self.sources if source not in ids]
        created = self.database.retrying(
            creation.create_many,
            [creation.NewScenario(source=one, params=self.params, queue=self.queue) for one in new],
            actor=ACTOR,
        )
        for source, one in zip(new, created, strict=True):
            ids[source] = one.id
            self.out.note(f"scenario {one.id}: {source}")
        return [ids[source] for source in self.sources]

    def _resume(self, source: str) -> int | None:
        """Take over the scenario that an interrupted run has left; None if there is none."""
        with self.database.begin() as connection:
            left = resumption.find(connection, source, self.params, _identity(source))
        if left is None:
            return None
        one = left.scenario
        if left.changed:
            self.out.note(f"{source} has changed since scenario {one.id} began: it begins anew")
            return None
        if one.status in STOPPING:
            following.wait_for(self.database, self.out, [one.id], STOP_SECONDS)
        if not self.database.retrying(resumption.take_over, one, self.queue, actor=ACTOR):
            return None
        frames = f"{one.frames_done} frames are stored"
        self.out.note(f"scenario {one.id} resumes at frame {one.checkpoint} ({frames}): {source}")
        self.resumed.add(one.queue)
        return one.id

    def _completed(self, sources: Sequence[str]) -> dict[str, int]:
        """Return the scenarios, by source, that the resumed runs had completed before."""
        found: dict[str, int] = {}
        for source in sources if self.resumed else ():
            one = self.database.retrying(
                resumption.take_completed,
                source,
                self.params,
                _identity(source),
                self.resumed,
                self.queue,
            )
            if one is not None:
                self.out.note(f"scenario {one} is completed already: {source}")
                found[source] = one
        return found

    def _follow(self, ids: Sequence[int], workers: OwnWorkers) -> list[Scenario]:
        """Wait until the scenarios have ended; an interruption stops them, and waits for that."""

        def tick() -> None:
            now = time.monotonic()
            if now - self.checked > CHECK_SECONDS:
                self.checked = now
                self.member.check()
                workers.check()
                if workers.left:
                    self._check_ended(ids)

        try:
            with self.out.progress() as progress:
                return following.wait_for(
                    self.database,
                    self.out,
                    ids,
                    None,
                    progress=progress,
                    tick=tick,
                    each=self._report if progress is None else None,
                )
        except (KeyboardInterrupt, SystemExit):
            named = f"scenario {ids[0]}" if len(ids) == 1 else f"{len(ids)} scenarios"
            self.out.warn(f"stopping {named}; Ctrl-C again ends at once")
            self._stop(ids)
            raise

    def _check_ended(self, ids: Sequence[int]) -> None:
        """Raise VidanError unless all have ended: no worker is left that takes them."""
        for scenario in following.read_all(self.database, ids):
            if scenario.status not in ENDED:
                raise VidanError(
                    "the workers of this run were drained or stopped",
                    hint=f"`vidan up --queues default,{self.queue}` resumes scenario {scenario.id}",
                )

    def _report(self, scenario: Scenario) -> None:
        """Print a line about the progress now and then, where there is no progress bar."""
        now = time.monotonic()
        due = now - self.reported.get(scenario.id, 0.0) > REPORT_SECONDS
        if due and scenario.frames_done and scenario.status not in ENDED:
            self.reported[scenario.id] = now
            which = f"{following.name_of(scenario)}: " if len(self.sources) > 1 else ""
            total = following.of_total(scenario, " of ")
            self.out.note(f"{which}{scenario.frames_done}{total} frames")

    def _stop(self, ids: Sequence[int]) -> None:
        from vidan.errors import NotAllowedError
        from vidan.services import steering

        for one in ids:
            with suppress(NotAllowedError):  # it has just ended
                self.database.retrying(steering.stop, one, actor=ACTOR)
        following.wait_for(self.database, self.out, ids, STOP_SECONDS)


def _identity(source: str) -> Mapping[str, Any] | None:
    """Return what tells a local file from another one under its name."""
    return Watch(local_path(source) if is_local(source) else None).identity
