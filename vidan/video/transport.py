"""Finds the video of an MPEG-TS that moved to another PID in the middle of the file.

FFmpeg gives the packets of a new PID as a stream that was not there when the file was opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZES = (188, 192, 204)
"""Sizes of the packets of an MPEG-TS: plain, of a Blu-ray, with error correction."""

PACKETS_AT_ONCE = 40_000
"""Packets that are looked at together: 8 MB."""

SYNC = 0x47
VIDEO = (0xE0, 0xEF)
"""Stream ids of video in a PES packet, ISO/IEC 13818-1, table 2-22."""


@dataclass(slots=True)
class Video:
    """The video of one PID: its number of pictures, and its first and last packet in the file."""

    pid: int
    pictures: int
    first: int
    last: int


def videos(path: Path) -> dict[int, Video]:
    """Return the video of each PID of a file. It reads the whole file, some hundred MB a second."""
    found: dict[int, Video] = {}
    with path.open("rb") as file:
        layout = _layout(file.read(SIZES[-1] * 20))
        if layout is None:
            return {}
        start, size = layout
        file.seek(start)
        number = 0
        while content := file.read(size * PACKETS_AT_ONCE):
            rows = len(content) // size
            packets = np.frombuffer(content, np.uint8, rows * size).reshape(rows, size)
            for pid, place in _pictures(packets[:, :188]):
                one = found.setdefault(pid, Video(pid, 0, number + place, 0))
                one.pictures += 1
                one.last = number + place
            number += rows
    return found


def _layout(content: bytes) -> tuple[int, int] | None:
    """Return where the first packet begins, and the size of packets."""
    for size in SIZES:
        start = 4 if size == 192 else 0
        if len(content) > 5 * size and all(content[start + n * size] == SYNC for n in range(5)):
            return start, size
    return None


def _pictures(packets: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return (PID, place) of each packet in which a PES packet of video begins."""
    begins = (packets[:, 0] == SYNC) & (packets[:, 1] & 0x40 != 0) & (packets[:, 3] & 0x10 != 0)
    places = np.flatnonzero(begins)
    some = packets[places]
    adapted = some[:, 3] & 0x20 != 0
    payload = 4 + np.where(adapted, 1 + some[:, 4].astype(int), 0)
    inside = payload <= 188 - 4
    places, some, payload = places[inside], some[inside], payload[inside]
    rows = np.arange(len(some))
    code = np.stack([some[rows, payload + n] for n in range(4)], axis=1)
    is_video = (code[:, :3] == (0, 0, 1)).all(axis=1)
    is_video &= (code[:, 3] >= VIDEO[0]) & (code[:, 3] <= VIDEO[1])
    pids = (some[:, 1].astype(int) & 0x1F) << 8 | some[:, 2]
    return [(int(pids[n]), int(places[n])) for n in np.flatnonzero(is_video)]


def moved(path: Path, pid: int) -> tuple[int, list[str]]:
    """Return how many pictures follow the video `pid` under other PIDs, and notes about these.

    A PID that runs beside it is another video. Pictures that lie between two parts of it count too,
    although the frames behind them have their numbers already.
    """
    found = videos(path)
    own = found.pop(pid, None)
    if own is None:
        return 0, []
    lost, notes = 0, []
    for one in sorted(found.values(), key=lambda video: video.first):
        if one.first > own.last:
            notes.append(
                f"the video moved from PID {own.pid} to PID {one.pid} in the middle of the file:"
                f" its {one.pictures} pictures there are lost"
            )
        elif _apart(path, own.pid, one):
            notes.append(
                f"in the middle of the file the video was under PID {one.pid} instead of"
                f" {own.pid}: its {one.pictures} pictures there are lost, and counted at the end"
            )
        else:
            continue
        lost += one.pictures
    return lost, notes


def _apart(path: Path, pid: int, other: Video) -> bool:
    """Whether the video `pid` has no picture between the first and the last one of the other."""
    with path.open("rb") as file:
        layout = _layout(file.read(SIZES[-1] * 20))
        assert layout is not None
        start, size = layout
        for number in range(other.first, other.last, PACKETS_AT_ONCE):
            file.seek(start + number * size)
            rows = min(PACKETS_AT_ONCE, other.last - number)
            content = file.read(rows * size)
            rows = len(content) // size
            packets = np.frombuffer(content, np.uint8, rows * size).reshape(rows, size)
            if any(one == pid for one, _ in _pictures(packets[:, :188])):
                return False
    return True
