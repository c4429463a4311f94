"""A fuzzer of videos: the same seed and number give the same files, byte for byte.

The kinds come in turn, so that as many files as there are kinds include each kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz import absurd, damage, no_videos, sound
from tests.fuzz.kinds import Kind
from tests.fuzz.stock import Stock

KINDS: dict[str, Kind] = {**sound.KINDS, **damage.KINDS, **absurd.KINDS, **no_videos.KINDS}


@dataclass(frozen=True)
class Fuzzed:
    """A file of the fuzzer. A `sound` one is undamaged, so that a player shows it whole."""

    number: int
    kind: str
    path: Path
    sound: bool


def make(folder: Path, seed: int, count: int) -> list[Fuzzed]:
    """Make `count` files in a folder, of all kinds in turn."""
    (folder / "stock").mkdir(parents=True)
    stock = Stock(folder / "stock", seed)
    made = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        random = Random(f"{seed} {number}")
        path = KINDS[kind](random, stock, folder / f"{number:04d}-{kind}")
        path.touch()  # a muxer that refused every packet has written no file
        made.append(Fuzzed(number, kind, path, kind in sound.KINDS))
    return made
