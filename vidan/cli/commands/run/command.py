"""`vidan run`: one video, analysed on this machine, from nothing to a summary."""

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
from vidan.cli.options.params import names
from vidan.cli.own_workers import OwnWorkers
from vidan.cli.terminal.output import Output
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
CHECK_SECONDS = 1.0
TELL_SECONDS = 10.0

commands = Commands("run")


@commands.command(
    "run",
    database=False,
    examples="""
        vidan run --sample                     the video in the package
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
        str | None, typer.Option("--out", metavar="DIR", help="Write the results there.")
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Take the video in the package.")
    ] = False,
    model: Annotated[str | None, typer.Option(metavar="M", help="See `vidan models list`.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Of the model.")] = None,
    min_score: Annotated[
        float | None, typer.Option(metavar="X", help="Leave out what is less sure.")
    ] = None,
    labels: Annotated[
        Any, typer.Option(metavar="A,B", parser=names, help="Look for these only.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="The model's input, in pixels.")
    ] = None,
    every: Annotated[int | None, typer.Option(metavar="N", help="Every Nth frame.")] = None,
    fps: Annotated[float | None, typer.Option(metavar="F", help="Frames a second.")] = None,
    decoder: Annotated[str | None, typer.Option(metavar="D", help="pyav or decord.")] = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
) -> int:
    """Analyse a video with nothing but this machine, and print a summary.

    Through the same database, broker, orchestrator and workers that a cluster uses, started for it
    and stopped afterwards. Exit code 0: completed; 5: failed; 6: stopped by somebody; 130: by you.
    """
    from vidan.detection.catalogue import detect_params
    from vidan.video.sources import source_for

    given = {
        "model": model, "weights": weights, "min_score": min_score, "labels": labels,
        "size": size, "every": every, "fps": fps, "decoder": decoder,
    }  # fmt: skip
    place = source_for(_place(source, sample), check=True)
    params = detect_params({k: v for k, v in given.items() if v is not None}, check=True)
    _validate(params, place)
    results = None if folder is None else run_results.prepare(Path(folder), place)
    queue = f"run-{uuid.uuid4().hex[:8]}"
    posts = devices.posts(gpus, cpus, name=queue, queues=[queue], app=settings.app)
    connect.note_unused(settings, out, "run")
    from vidan import stack

    with stack.join(settings, on_progress=out.note) as member:
        database = connect.open_database(member.settings)
        try:
            return _Run(out, member, database, place, params, queue, posts, results).run()
        finally:
            database.close()


def _place(source: str | None, sample: bool) -> str:
    if sample and source is not None:
        raise UsageError("--sample and a source exclude each other", hint="give one of them")
    if not sample and source is None:
        raise UsageError("a source is needed, or --sample", hint="vidan run VIDEO")
    if sample:
        from vidan.detection import catalogue

        return str(catalogue.sample_video())
    return str(source)


def _validate(params: dict[str, Any], source: str) -> None:
    """Refuse what the service would refuse before a stack is started for it."""
    from vidan.protocol import tasks

    tasks.validate(tasks.DETECT, params, source)


@dataclass
class _Run:
    """One call of the command, once the stack is there."""

    out: Output
    member: Membership
    database: Database
    source: str
    params: dict[str, Any]
    queue: str
    posts: Sequence[WorkerOptions]
    results: Path | None
    checked: float = 0.0
    told: float = 0.0

    def run(self) -> int:
        """Queue the scenario for workers of its own, see it through, print what came of it."""
        self._name_left_overs()
        scenario_id = self._create()
        log = None if self.out.debug else self.member.settings.home / "logs" / "workers.log"
        try:
            with OwnWorkers(self.member.settings, self.posts, log) as workers:
                scenario = self._follow(scenario_id, workers)
        except KeyboardInterrupt:
            run_results.tell_how_to_go_on(self.database, self.out, scenario_id, self.queue)
            return failures.INTERRUPTED
        written = run_results.write(self.database, self.out, scenario, self.results)
        run_results.summarise(self.database, self.out, scenario, self.results, written)
        return following.code_of(scenario.status)

    def _create(self) -> int:

        new = creation.NewScenario(source=self.source, params=self.params, queue=self.queue)
        created = self.database.retrying(lambda c: creation.create(c, new, actor="vidan run"))
        self.out.note(f"scenario {created.id}: {self.source}")
        return created.id

    def _follow(self, scenario_id: int, workers: OwnWorkers) -> Scenario:
        """Until it has ended; an interruption stops it first, and waits for that."""

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
                    each=self._tell if progress is None else None,
                )[0]
        except (KeyboardInterrupt, SystemExit):
            self.out.warn(f"stopping scenario {scenario_id}; Ctrl-C again ends at once")
            self._stop(scenario_id)
            raise

    def _check_ended(self, scenario_id: int) -> None:
        """Raise VidanError unless the scenario has ended: nobody is left to go on with it."""
        (scenario,) = following.read_all(self.database, [scenario_id])
        if scenario.status not in ENDED:
            raise VidanError(
                "the workers of this run were told to leave",
                hint=f"`vidan up --queues default,{self.queue}` goes on with {scenario_id}",
            )

    def _tell(self, scenario: Scenario) -> None:
        """A line now and then, where there is no terminal for a bar."""
        now = time.monotonic()
        if now - self.told > TELL_SECONDS and scenario.frames_done:
            self.told = now
            total = "" if scenario.frames_total is None else f" of {scenario.frames_total}"
            self.out.note(f"{scenario.frames_done}{total} frames")

    def _stop(self, scenario_id: int) -> None:
        from vidan.errors import NotAllowedError
        from vidan.services import steering

        try:
            self.database.retrying(lambda c: steering.stop(c, scenario_id, actor="vidan run"))
        except NotAllowedError:
            return  # it has just ended
        following.wait_for(self.database, self.out, [scenario_id], STOP_SECONDS)

    def _name_left_overs(self) -> None:
        with self.database.begin() as connection:
            run_results.name_left_overs(connection, self.out)
