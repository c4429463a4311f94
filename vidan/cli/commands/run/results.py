"""What `vidan run` writes: files, a summary, and the names of unfinished scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidan.cli import listing
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import by_label
from vidan.domain.bounds import DEFAULT_QUEUE
from vidan.domain.status import ENDED, Status
from vidan.errors import InputRejected, VidanError
from vidan.export import formats, render_scenario, targets

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from vidan.db.session import Database
    from vidan.services.predictions import StoredFrame
    from vidan.services.scenarios import Scenario

PREDICTIONS, VIDEO = "predictions.jsonl", "annotated.mp4"

NAMED = 5
"""Most unfinished scenarios that are named."""


def prepare(folder: Path, source: str) -> Path:
    """Make the folder for the results; return its absolute path.

    Raises InputRejected if it can't be written to, or if a result would overwrite the source.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".vidan-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputRejected(
            f"can't write to {folder}: {error.strerror}",
            hint="--out names a folder",
        ) from None
    for name in (PREDICTIONS, VIDEO):
        targets.spare(folder / name, source)
    return folder.absolute()


def folders(folder: Path, sources: Sequence[str]) -> dict[str, Path]:
    """Make the folder of each source's results: the given one, or for several one each below it.

    These are named after the files, without suffix; of equal names the later ones get a number.
    Raises InputRejected.
    """
    if len(sources) == 1:
        return {sources[0]: prepare(folder, sources[0])}
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for source in sources:
        last = Path(source.rstrip("/").rpartition("/")[2]).stem or "source"
        name, number = last, 1
        while name.casefold() in taken:
            number += 1
            name = f"{last}-{number}"
        taken.add(name.casefold())
        found[source] = prepare(folder / name, source)
    return found


def write(database: Database, out: Output, scenario: Scenario, folder: Path | None) -> list[Path]:
    """Write predictions and annotated video to the folder; return the files that were written.

    If the video can't be drawn, that is only a warning.
    """
    if folder is None or scenario.frames_done == 0:
        return []
    formats.write(_pages(database, scenario.id), "jsonl", str(folder / PREDICTIONS))
    try:
        with out.drawing() as on_progress:
            render_scenario.render_scenario(database, scenario.id, str(folder / VIDEO), on_progress)
    except VidanError as error:
        out.warn(f"no {VIDEO}: {error}")
        return [folder / PREDICTIONS]
    return [folder / PREDICTIONS, folder / VIDEO]


def _pages(database: Database, scenario_id: int) -> Iterator[list[StoredFrame]]:
    from vidan.services import predictions

    last = -1
    while True:
        with database.begin() as connection:
            page = predictions.read_after(connection, scenario_id, last)
        if not page:
            return
        yield page
        last = page[-1].frame


def summarise(
    database: Database, out: Output, scenario: Scenario, folder: Path | None, written: list[Path]
) -> None:
    """Print how the scenario ended, its detections, its time, and the files that were written."""
    from vidan.services import predictions

    with database.begin() as connection:
        found = predictions.summary(connection, scenario.id)
    record: dict[str, Any] = {
        "scenario_id": scenario.id,
        "status": str(scenario.status),
        "source": scenario.source,
        "frames": found.frames,
        "detections": found.detections,
        "detections_of": found.by_label,
        "frames_with": found.frames_with,
        "lost_frames": found.lost_frames,
        "notes": scenario.notes,
        "seconds": found.seconds and round(found.seconds, 2),
        "fps": found.fps and round(found.fps, 1),
        "predictions": _named(PREDICTIONS, written),
        "video": _named(VIDEO, written),
        "error": scenario.error,
    }
    if not out.json:
        record["status"] = scenario.status
        record["detections_of"] = by_label(found.by_label)
        record["frames_with"] = by_label(found.frames_with)
        if folder is None and found.frames:
            record["predictions"] = f"vidan predictions show {scenario.id}"
            record["video"] = f"vidan predictions render {scenario.id} {VIDEO}"
        record["notes"] = scenario.notes or None
        record = {name: value for name, value in record.items() if value is not None}
    out.details(record, id=scenario.id)


def _named(name: str, written: list[Path]) -> str | None:
    return next((str(path) for path in written if path.name == name), None)


def name_unfinished(database: Database, out: Output, *, apart_from: Collection[int]) -> None:
    """Name other scenarios that no worker will finish, and the commands that resume or delete them.

    These are queued or stopped scenarios in queues that no running worker takes.
    """
    from vidan.services import workers
    from vidan.services.filters import Filters, Order

    with database.begin() as connection:
        served = {queue for worker in workers.find(connection) for queue in worker.queues}
    waiting = Filters(status=[Status.INIT_STARTUP, Status.INACTIVE])
    found = listing.scenarios(database, waiting, Order(), None)
    left = [s for s in found if s.queue not in served and s.frames_done != s.frames_total]
    left = [scenario for scenario in left if scenario.id not in apart_from]
    for scenario in left[:NAMED]:
        what = scenario.source or f"task {scenario.task}"
        out.note(f"also unfinished: scenario {scenario.id}, {out.said(scenario.status)}, {what}")
        out.note(f"  {how_to_resume(scenario)}")
    if len(left) > NAMED:
        out.note(f"and {len(left) - NAMED} more: `vidan scenario list`")


def how_to_resume(scenario: Scenario) -> str:
    """Return the commands that resume an unfinished scenario, and those that delete it."""
    up, one = _up(scenario.queue), scenario.id
    if scenario.status is Status.INACTIVE:
        start, stop = f", then `vidan scenario start {one}`", ""
    else:
        start, stop = "", f"`vidan scenario stop {one}`, "
    return f"to resume it: {up}{start}; to delete it: {stop}`vidan scenario delete {one}`"


def say_how_to_resume(database: Database, out: Output, ids: Sequence[int], queue: str) -> None:
    """Say after Ctrl-C what is stored, and how to resume the scenarios."""
    from vidan.services import scenarios

    if len(ids) > 1:
        out.warn("what was found so far is stored; the same command resumes")
        return
    (scenario_id,) = ids
    with database.begin() as connection:
        status = scenarios.get(connection, scenario_id).status
    out.warn(f"scenario {scenario_id} is {out.said(status)}; its detections so far are stored")
    out.warn(f"to show them: `vidan predictions show {scenario_id}`")
    if status not in ENDED or status is Status.INACTIVE:
        out.warn("to resume it: the same command again")
    if status is Status.INACTIVE:
        out.warn(f"or: {_up(queue)}, then `vidan scenario start {scenario_id}`")
    elif status not in ENDED:  # there was no time to stop it
        out.warn(f"it resumes with {_up(queue)}")


def _up(queue: str) -> str:
    return (
        "`vidan up`" if queue == DEFAULT_QUEUE else f"`vidan up --queues {DEFAULT_QUEUE},{queue}`"
    )
