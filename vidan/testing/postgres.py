"""A PostgreSQL in a temporary folder, while a block of code runs."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidan.stack import account
from vidan.stack.postgres import PostgresServer
from vidan.stack_state import FileLock

# no data has to survive a power cut
_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_DRAFT, _NAME = "vidan-draft-", "vidan-testing-"
_LOCK = "lock"


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database and yield its URL; stop and remove it at the end.

    Folders that killed processes have left are removed, too. Raises MissingExtra or
    DatabaseUnavailable.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_DRAFT))
    lock = FileLock(folder / _LOCK)
    lock.acquire(shared=False)
    # a folder of this name is removed by other processes unless it is locked
    folder = folder.rename(folder.with_name(folder.name.replace(_DRAFT, _NAME, 1)))
    folder.chmod(0o755)  # for the account of its own that the server has when root tests
    server = PostgresServer(folder / "postgres", folder / "postgres.log", _QUICK)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        _remove(folder)
        lock.release()


def _sweep(place: Path) -> None:
    for folder in filter(_is_ours, place.glob(f"{_NAME}*")):
        lock = FileLock(folder / _LOCK)
        try:
            if lock.acquire(shared=False):
                _remove(folder)
        except OSError:
            continue  # another process removes it
        finally:
            lock.release()


def _is_ours(folder: Path) -> bool:
    """Whether the folder belongs to this user: other users may put links into a shared place."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _remove(folder: Path) -> None:
    data = (folder / "postgres").resolve()
    if os.geteuid() == 0 and data.parent == account.OUTSIDE.resolve():
        shutil.rmtree(data, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
