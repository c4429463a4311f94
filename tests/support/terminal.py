"""Commands in a terminal of their own."""

from __future__ import annotations

import os
import pty
import subprocess

from tests.support.shell import Shell


def in_terminal(shell: Shell, *words: object, typed: str | None = None, **variables: str) -> str:
    """What the command writes when stdout and stderr are a terminal of 120 columns.

    With `typed`, stdin is the terminal too, and this is typed there.
    """
    here, there = pty.openpty()
    process = subprocess.Popen(
        shell.command(*words),
        stdin=subprocess.DEVNULL if typed is None else there,
        stdout=there,
        stderr=there,
        env={**shell.environment, "COLUMNS": "120", "TERM": "xterm", **variables},
        cwd=shell.folder,
    )
    os.close(there)
    if typed is not None:
        os.write(here, typed.encode())
    written = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(here)
    process.wait(20)
    return written.decode().replace("\r\n", "\n")
