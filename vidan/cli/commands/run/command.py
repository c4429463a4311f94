"""`vidan run`: analyse one video on this machine and print a summary."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, failures, following
from vidan.cli.command import Commands
from vidan.cli.commands.run import results as run_results
from vidan.cli.options import devices
from vidan.cli.options.devices import CpusOption, GpusOption
from vidan.cli.options.params import MaxLost, MaxLostOption, names
from vidan.cli.own_workers import OwnWorkers
from vidan.cli.terminal.output import Output
from vidan.detection import catalogue
from vidan.domain.bounds import DECODERS
from vidan.domain.status import ENDED
from vidan.errors import UsageError, VidanError
from vidan.protocol import creation

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
        vidan run street.mp4 --labels person,car --min-score 0.5 --every 5
        vidan run street.mp4 --json | jq .frames_with
    """,
)
def run(
    out: Output,
    settings: Settings,
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="A video file, or a URL.")
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
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Analyse one field of interlaced pictures.")
    ] = False,
    max_lost: MaxLostOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
) -> int:
    """Analyse a video on this machine, without any other service, and print a summary.

    It starts the database, broker, orchestrator and workers that a cluster uses too, and stops them
    afterwards. Exit code 0: completed; 5: failed; 6: stopped by another command; 11: more frames
    lost than --max-lost allows; 130: stopped by Ctrl-C.
    """
    from vidan.video.sources import source_for

    given = {
        "model": model, "weights": weights, "min_score": min_score, "labels": labels,
        "size": size, "every": every, "fps": fps, "decoder": decoder,
        "deinterlace": deinterlace or None,
    }  # fmt: skip
    place = source_for(_place(source, sample), check=True)
    params = catalogue.detect_params(
        {name: value for name, value in given.items() if value is not None}, check=True
    )
    _validate(params, place)
    results = None if folder is None else run_results.prepare(Path(folder), place)
    queue = f"run-{uuid.uuid4().hex[:8]}"
    posts = devices.posts(gpus, cpus, name=queue, queues=[queue], app=settings.app)
    connect.note_unused(settings, out, "run")
    from vidan import stack

    with stack.join(settings, on_progress=out.note) as member:
        database = connect.open_database(member.settings)
        try:
            return _Run(out, member, database, place, params, queue, posts, results, max_lost).run()
        finally:
            database.close()


def _place(source: str | None, sample: bool) -> str:
    if sample and source is not None:
        raise UsageError("--sample and a source exclude each other", hint="give one of them")
    if not sample and source is None:
        raise UsageError("a source is needed, or --sample", hint="vidan run VIDEO")
    if sample:
        return str(catalogue.sample_video())
    return str(source)


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
    source: str
    params: dict[str, Any]
    queue: str
    posts: Sequence[WorkerOptions]
    results: Path | None
    max_lost: MaxLost | None
    checked: float = 0.0
    reported: float = 0.0

    def run(self) -> int:
        """Queue the scenario for workers of its own, wait for its end, print the summary."""
        scenario_id = self._create()
        log = None if self.out.debug else self.member.settings.home / "logs" / "workers.log"
        try:
            with OwnWorkers(self.member.settings, self.posts, log) as workers:
                scenario = self._follow(scenario_id, workers)
        except KeyboardInterrupt:
            run_results.say_how_to_resume(self.database, self.out, scenario_id, self.queue)
            return failures.INTERRUPTED
        written = run_results.write(self.database, self.out, scenario, self.results)
        run_results.summarise(self.database, self.out, scenario, self.results, written)
        run_results.name_unfinished(self.database, self.out, apart_from=scenario_id)
        lacking = following.incomplete(self.out, [scenario], self.max_lost)
        return following.code_of(scenario.status) or lacking

    def _create(self) -> int:
        new = creation.NewScenario(source=self.source, params=self.params, queue=self.queue)
        created = self.database.retrying(creation.create, new, actor=ACTOR)
        self.out.note(f"scenario {created.id}: {self.source}")
        return created.id

    def _follow(self, scenario_id: int, workers: OwnWorkers) -> Scenario:
        """Wait until the scenario has ended; an interruption stops it, and waits for that."""

        def tick() -> None:
            now = time.monotonic()
            if now - self.checked > CHECK_SECONDS:
                self.checked = now
                self.member.check()
                workers.check()
                if workers.left:
                    self._check_ended(scenario_id)

        try:
            with self.out.progress() as progress:
                return following.wait_for(
                    self.database,
                    self.out,
                    [scenario_id],
                    None,
                    progress=progress,
                    tick=tick,
                    each=self._report if progress is None else None,
                )[0]
        except (KeyboardInterrupt, SystemExit):
            self.out.warn(f"stopping scenario {scenario_id}; Ctrl-C again ends at once")
            self._stop(scenario_id)
            raise

    def _check_ended(self, scenario_id: int) -> None:
        """Raise VidanError unless the scenario has ended: no worker is left that takes it."""
        (scenario,) = following.read_all(self.database, [scenario_id])
        if scenario.status not in ENDED:
            raise VidanError(
                "the workers of this run were drained or stopped",
                hint=f"`vidan up --queues default,{self.queue}` resumes scenario {scenario_id}",
            )

    def _report(self, scenario: Scenario) -> None:
        """Print a line about the progress now and then, where there is no progress bar."""
        now = time.monotonic()
        if now - self.reported > REPORT_SECONDS and scenario.frames_done:
            self.reported = now
            self.out.note(f"{scenario.frames_done}{following.of_total(scenario, ' of ')} frames")

    def _stop(self, scenario_id: int) -> None:
        from vidan.errors import NotAllowedError
        from vidan.services import steering

        try:
            self.database.retrying(steering.stop, scenario_id, actor=ACTOR)
        except NotAllowedError:
            return  # it has just ended
        following.wait_for(self.database, self.out, [scenario_id], STOP_SECONDS)
