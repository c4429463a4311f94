"""The tasks and videos of a chaos run, and the results of an undisturbed run."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tests.support import videos
from tests.support.cluster import SAMPLE
from vidan.db.session import Database
from vidan.domain.detection import Gap
from vidan.errors import UsageError, VidanError
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import predictions, scenarios
from vidan.services.predictions import StoredFrame
from vidan.video.opening import open_source

LONGEST = 300
"""Largest number of packets used of a long video, so that every scenario ends soon."""
DECODED_SECONDS = 4.0
"""Longest time, in seconds, for which a video is decoded; a large one is cut there."""
MOST = 8
"""Largest number of videos: each is analysed in several ways before the first injury."""
FRAMES_OF_DETECTOR = 24
"""Number of frames, roughly, that one scenario sends through the built-in detector."""
SECONDS = 5.0
"""Seconds, roughly, that the light tasks take, so that injuries find targets."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video, and the number of frames that an undisturbed reader gets."""

    path: Path
    frames: int
    middle: int
    """The number of the frame in the middle."""


@dataclass(frozen=True)
class Work:
    """A task over a video, which the undisturbed run does once. `pause` only slows it down."""

    task: str
    video: Video | None
    params: Mapping[str, Any]
    pause: float = 0.0

    @property
    def key(self) -> str:
        """A readable name, different for each work."""
        source = self.video.path.name if self.video else "no source"
        shown = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.task}({shown}) of {source}"

    def new(self, *, slowly: bool) -> NewScenario:
        """Return the scenario to create."""
        pause = {"pause": self.pause} if slowly and self.pause else {}
        return NewScenario(
            source=str(self.video.path) if self.video else None,
            task=self.task,
            params={**self.params, **pause},
            name=self.key,
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What an undisturbed run has stored."""

    frames: Mapping[int, StoredFrame]
    gaps: Sequence[Gap]
    result: Any
    state: Mapping[str, Any]


def made_videos(folder: Path) -> list[Path]:
    """Make small videos (damaged, spliced, with uneven times …), and add the sample."""
    sound = videos.encode(folder / "groups.mp4", 120)
    uneven = [number * 40 + (number % 7) * 5 for number in range(90)]
    first = videos.encode(folder / "first.ts", 50)
    second = videos.encode(folder / "second.ts", 40)
    made = [
        SAMPLE,
        sound,
        videos.remux(sound, folder / "groups.mkv"),
        videos.encode(folder / "plain.avi", 100, codec="mpeg4", options={}),
        videos.encode(folder / "uneven.mp4", 90, times=uneven),
        videos.spliced([first, second], folder / "spliced.ts"),
        videos.damaged(sound, folder / "damaged.mp4", 0.02, seed=3),
        videos.damaged(first, folder / "damaged.ts", 0.03, seed=5),
    ]
    first.unlink()
    second.unlink()
    return made


def found_videos(given: Path, folder: Path, seed: int) -> list[Video]:
    """Return the readable videos of a folder, with long ones cut; the seed chooses among many.

    Raises UsageError if there is none.
    """
    if not given.is_dir():
        raise UsageError(f"there is no folder {given}", hint="--videos names a folder with videos")
    paths = [path for path in sorted(given.iterdir()) if path.is_file()]
    random.Random(f"videos {seed}").shuffle(paths)
    looked_at = (_usable(path, cut_into=folder) for path in paths)
    usable = list(islice((video for video in looked_at if video is not None), MOST))
    if not usable:
        raise UsageError(f"no readable video in {given}", hint="any that ffmpeg can decode will do")
    if len(paths) > MOST:
        say(f"used are {', '.join(video.path.name for video in usable)}")
    return usable


def default_videos(folder: Path) -> list[Video]:
    """Return the sample video and the videos made here."""
    return [video for path in made_videos(folder) if (video := _usable(path)) is not None]


def _usable(path: Path, cut_into: Path | None = None) -> Video | None:
    """Read a video; returns None, with a line on stderr, if it can not be read.

    The shortened copy of a long video is written into the folder `cut_into`.
    """
    try:
        # only decoding shows the length, since a header may claim any
        numbers, whole = ([], False) if cut_into is None else _first_numbers(path)
        if cut_into is not None and not whole:
            path = _shortened(path, cut_into / path.name, len(numbers))
        if not whole:
            numbers = list(_numbers(path))
    except (VidanError, OSError) as error:
        say(f"{path.name} is left out: {error}")
        return None
    if not numbers:
        say(f"{path.name} is left out: nothing in it can be decoded")
        return None
    return Video(path.resolve(), len(numbers), numbers[len(numbers) // 2])


def _first_numbers(path: Path) -> tuple[list[int], bool]:
    """Return the numbers of the first frames, and whether there are no more."""
    until = time.monotonic() + DECODED_SECONDS
    found: list[int] = []
    for number in _numbers(path):
        if len(found) >= LONGEST or (time.monotonic() > until and len(found) > 8):
            return found, False
        found.append(number)
    return found, True


def _numbers(path: Path) -> Iterator[int]:
    source = open_source(str(path))
    try:
        for batch in source.batches(8):
            yield from map(int, batch.indices)
    finally:
        source.close()


def _shortened(path: Path, short: Path, frames: int) -> Path:
    """Copy the first packets of a video; returns the whole video if that is impossible."""
    try:
        videos.remux(path, short, limit=frames)
        readable = sum(1 for _ in _numbers(short)) > 0
    except (VidanError, OSError, ValueError) as error:
        say(f"{path.name} can't be shortened ({error}): the whole of it is used")
        return path
    if not readable:
        return path
    say(f"{path.name} is long: its first {frames} pictures are used")
    return short


def works(found: Sequence[Video]) -> list[Work]:
    """Return all works over these videos, those of the built-in detector first."""
    dear: list[Work] = []
    light: list[Work] = [Work("ponder", None, {"number": 12}, pause=2.0)]
    for place, video in enumerate(found):
        pause = SECONDS / video.frames
        every = max(1, video.frames // FRAMES_OF_DETECTOR)
        size = "320x320" if place % 2 else "256x320"
        light.append(Work("bright", video, {}, pause))
        light.append(Work("bright", video, {"every": 2}, 2 * pause))
        light.append(Work("brightest", video, {}, pause))
        light.append(Work("stumble", video, {"at": video.middle}, pause))
        dear.append(Work("nano", video, {"every": every, "size": size}))
        if place % 3 == 0:
            dear.append(Work("detect", video, {"every": every, "size": size}))
    return [*dear, *light]


@dataclass
class Choice:
    """Chooses the next work: a pure function of the seed."""

    seed: int
    works: Sequence[Work]
    dear: float = 0.15
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(f"works {self.seed}")

    def next(self) -> Work:
        """Return the next work, sometimes one of the built-in detector."""
        is_dear = self._chance.random() < self.dear
        kinds = [one for one in self.works if (one.task in ("nano", "detect")) == is_dear]
        task = self._chance.choice(sorted({one.task for one in kinds}))
        return self._chance.choice([one for one in kinds if one.task == task])


def create(database: Database, work: Work, *, slowly: bool) -> int:
    """Create a scenario for a work; returns its id."""
    with database.begin() as connection:
        return creation.create(connection, work.new(slowly=slowly)).id


def stored(database: Database, scenario_id: int) -> Expected:
    """Return what a scenario has stored."""
    with database.begin() as connection:
        scenario = scenarios.get(connection, scenario_id)
        rows = predictions.read_after(connection, scenario_id, -1, limit=1_000_000)
        gaps = scenarios.gaps(connection, scenario_id)
    return Expected({row.frame: row for row in rows}, gaps, scenario.result, scenario.state)


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
