"""Temporary folders for whole servers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.support.processes import is_gone

MEMORY = Path("/dev/shm")


def new_folder() -> Path:
    """Make an empty folder with a short path (sockets lie in it) that other accounts can enter.

    The folder lies in memory where there is room, because the folder of a server takes seconds to
    write to a disk and to remove.
    """
    roomy = (
        MEMORY.is_dir()
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free > 2 * 2**30
    )
    place = MEMORY if roomy else Path("/tmp")
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"vidan-test-{os.getpid()}-", dir=place))
    folder.chmod(0o755)
    return folder


def _sweep(place: Path) -> None:
    """Remove the folders of test sessions that were killed before they removed them."""
    for folder in place.glob("vidan-test-*-*"):
        owner = folder.name.split("-")[2]
        if owner.isdigit() and is_gone(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
