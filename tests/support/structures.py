"""Videos of any structure: groups, B pictures, fields, containers, timestamps, damage."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from tests.support import pcm
from tests.support.pcm import Picture

STEP_MS = 40
LEAST_MS = {"mkv": 1, "avi": STEP_MS}


@dataclass(frozen=True, slots=True)
class Group:
    """A key frame and `length` - 1 pictures behind it, shuffled within `reorder` places."""

    length: int
    reorder: int
    fields: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Structure:
    """A video. `damaged` are pictures' places in decode order.

    `stamps`: those of showing, those of decoding, or equal ones for every two pictures.
    """

    groups: tuple[Group, ...]
    container: str
    stamps: str = "shown"
    damaged: frozenset[int] = frozenset()
    uneven: bool = False
    lone_stamps: bool = False  # second fields have no timestamps

    @property
    def pictures(self) -> int:
        return sum(group.length for group in self.groups)

    @property
    def reorder(self) -> int:
        return max(group.reorder for group in self.groups)

    @property
    def frames_only(self) -> bool:
        return not any(group.fields for group in self.groups)

    def decoded(self) -> list[Picture]:
        """Return the pictures in decode order."""
        found: list[Picture] = []
        for group in self.groups:
            first = len(found)
            order = shuffled(group)
            found += [Picture(first + at, at, at == 0, group.fields) for at in order]
        return found

    def group_of(self, number: int) -> int:
        """Return the place of the group that holds a picture."""
        for place, group in enumerate(self.groups):
            if number < group.length:
                return place
            number -= group.length
        raise IndexError(number)


def shuffled(group: Group) -> list[int]:
    """Return the places of a group's pictures in decode order: the key frame is the first.

    Pictures come in runs: the last one of a run first, then the others in any order that needs no
    more than `reorder` places.
    """
    choice = random.Random(group.seed)
    order, at = [0], 1
    while at < group.length:
        size = min(choice.randint(1, group.reorder + 1), group.length - at)
        run = list(range(at, at + size))
        order += [run[-1], *reversed(run[:-1])] if choice.random() < 0.5 else [run[-1], *run[:-1]]
        at += size
    return order


def write(path: Path, structure: Structure) -> Path:
    """Write a video of that structure; the suffix of the path is its container's."""
    pictures = structure.decoded()
    packets = pcm.packets(pictures, structure.reorder, frames_only=structure.frames_only)
    raw = path.with_suffix(".raw")
    raw.write_bytes(b"".join(b"".join(parts) for parts in packets))
    for place in structure.damaged:
        packets[place] = [_damaged(part) for part in packets[place]]
    if structure.container == "264":
        path.write_bytes(b"".join(b"".join(parts) for parts in packets))
        return path
    options = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(raw), format="h264") as given,
        av.open(str(path), "w", options=options) as output,
    ):
        copy = output.add_stream_from_template(given.streams.video[0])
        if structure.container == "avi":
            copy.codec_context.framerate = Fraction(1000, STEP_MS)
            copy.time_base = Fraction(STEP_MS, 1000)
        for place, (picture, parts) in enumerate(zip(pictures, packets, strict=True)):
            split = structure.container == "ts" and not structure.lone_stamps
            for second, data in enumerate(parts if split else [b"".join(parts)]):
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, Fraction(1, 1000)
                _stamp(packet, structure, picture, place, second)
                packet.is_keyframe = picture.key and not second
                output.mux(packet)
    raw.unlink()
    return path


def _stamp(
    packet: av.Packet[Any],
    structure: Structure,
    picture: Picture,
    place: int,
    second: int,
) -> None:
    later = second * STEP_MS // 2
    packet.dts = _time(structure, place) + later
    shown = place if structure.stamps == "decoded" else picture.number + structure.reorder
    if structure.stamps == "tied":
        shown = structure.reorder + picture.number // 2 * 2
    packet.pts = max(packet.dts, _time(structure, shown) + later)
    packet.duration = STEP_MS


def _time(structure: Structure, place: int) -> int:
    return place * STEP_MS + (place * 7 % 5 * 4 if structure.uneven else 0)


def _damaged(data: bytes) -> bytes:
    """Make the slices of a packet unreadable."""
    at = max(data.rfind(b"\0\0\1\x65"), data.rfind(b"\0\0\1\x61")) + 4
    return data[:at] + b"\x01" * 20


def sound_groups(structure: Structure) -> Sequence[int]:
    """Return the groups without damage whose neighbours have none, too.

    A lost key frame makes the decoder mix the order of the groups on both sides.
    """
    pictures = structure.decoded()
    hurt = {structure.group_of(pictures[place].number) for place in structure.damaged}
    return [at for at in range(len(structure.groups)) if not {at - 1, at, at + 1} & hurt]
