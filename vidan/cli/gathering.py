"""The sources that a command names: files and URLs, and all videos and pictures of folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidan.errors import InputRejected, VidanError
from vidan.video.container import local_path, shown
from vidan.video.opening import is_local
from vidan.video.sources import source_for

if TYPE_CHECKING:
    from vidan.cli.terminal.output import Output

SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gxf .h264 .h265 .264 .265 .hevc .ivf .m1v .m2t .m2ts"
    " .m2v .m4v .mj2 .mjpeg .mjpg .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .obu .ogg .ogm"
    " .ogv .qt .rm .rmvb .tod .ts .trp .vob .webm .wmv .wtv .y4m"
    " .apng .avif .bmp .gif .heic .heif .jpeg .jpg .jp2 .png .tif .tiff .webp".split()
)
"""Names of videos and pictures in a folder end so."""

NAMED = 20
"""Most sources that a message names one by one."""


def gather(
    out: Output, places: Sequence[str], *, check: bool, recursive: bool, skip_bad: bool
) -> list[str]:
    """Return the sources as they are stored, those of folders sorted.

    With `check` each is opened. Raises InputRejected that names all bad ones; with `skip_bad` they
    are told and left out, and InputRejected is raised if none is left.
    """
    sources: list[str] = []
    bad: list[tuple[str, VidanError]] = []
    expanded = list(_expanded(out, places, recursive=recursive))
    for place in expanded:
        try:
            sources.append(source_for(place, check=check))
        except VidanError as error:
            if _is_folder(place):
                error.hint = "--recursive takes the videos in it"
            bad.append((place, error))
    if bad and not (skip_bad and sources):
        raise _all_in_one(bad, len(expanded))
    for place, why in bad[:NAMED]:
        out.warn(f"skipped {shown(place)}: {why}")
    if bad:
        out.warn(f"{len(bad)} of {len(expanded)} sources are skipped")
    return sources


def _expanded(out: Output, places: Sequence[str], *, recursive: bool) -> Iterator[str]:
    for place in places:
        if not recursive or not _is_folder(place):
            yield place
            continue
        found, left_out = in_folder(local_path(place).expanduser())
        if left_out:
            kinds = ", ".join(
                f"{count} {suffix or 'without a suffix'}"
                for suffix, count in sorted(left_out.items(), key=lambda one: (-one[1], one[0]))[:5]
            )
            count = left_out.total()
            others = "another file is" if count == 1 else f"{count} other files are"
            out.note(f"{place}: {others} left out ({kinds})")
        if not found:
            raise InputRejected(
                f"no video and no picture in {place}", hint="name files to analyse them in any case"
            )
        yield from map(str, found)


def in_folder(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the videos and pictures in a folder and below it, sorted, and what is left out.

    The latter counts files by suffix. Hidden files and folders, and folders behind links, are left
    out, the folders uncounted.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for name in files:
            path = Path(parent, name)
            suffix = path.suffix.lower()
            if suffix in SUFFIXES and not name.startswith("."):
                found.append(path)
            else:
                left_out[suffix] += 1
    return sorted(found), left_out


def _unreadable(error: OSError) -> None:
    raise InputRejected(f"can't read the folder {error.filename}: {error.strerror}") from None


def _is_folder(place: str) -> bool:
    try:
        return bool(place) and is_local(place) and local_path(place).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


def _all_in_one(bad: Sequence[tuple[str, VidanError]], count: int) -> VidanError:
    """Return one error that names all bad sources; that of the only source as it is."""
    if count == 1:
        return bad[0][1]
    named = "; ".join(
        str(error) if Path(place).name in str(error) else f"{shown(place)}: {error}"
        for place, error in bad[:NAMED]
    )
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return InputRejected(
        f"{len(bad)} of {count} sources can't be used, so nothing is queued: {named}{more}",
        hint="--skip-bad leaves them out" if len(bad) < count else "check the paths",
    )
