"""Children that never outlive their parent, however it dies.

The parent keeps the write end of a pipe and never writes; the child reads. When the parent's end
closes (it exited, or was killed with -9) the read returns, and the child ends in its own way. The
write end is inherited by nobody, so a grandchild can't keep a dead parent's pipe open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import IO

FD_VARIABLE = "VIDAN_LIFELINE_FD"
"""Tells the child which descriptor is the read end."""

Output = int | IO[bytes] | IO[str] | None


class Child:
    """A child process on its lifeline."""

    def __init__(self, process: subprocess.Popen[bytes], write_end: int) -> None:
        self._process = process
        self._write_end: int | None = write_end

    @property
    def pid(self) -> int:
        """Its process id, which is its session's and its process group's too."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes] | None:
        """Its output, if it was started with `stdout=subprocess.PIPE`."""
        return self._process.stdout

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired after `timeout` seconds."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); without effect if it has ended."""
        self._process.terminate()

    def kill(self) -> None:
        """End it (SIGKILL); without effect if it has ended."""
        self._process.kill()

    def close(self) -> None:
        """Let go of the lifeline: the child ends as if this process had died."""
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None

    def stop(self, timeout: float) -> int:
        """Terminate, wait up to `timeout` seconds, then kill; the exit code."""
        self.terminate()
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()
        finally:
            self.close()


def spawn(
    module: str,
    args: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdout: Output = None,
    stderr: Output = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Child:
    """Start `python -m module args…` on a lifeline, in a session of its own.

    The session keeps a terminal's Ctrl-C with the parent, which passes on what it means. `env` is
    the whole environment (this process's own by default).
    """
    read_end, write_end = os.pipe()  # neither is inheritable: pass_fds lets one of them through
    environment = dict(os.environ if env is None else env)
    environment[FD_VARIABLE] = str(read_end)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            env=environment,
            pass_fds=(*pass_fds, read_end),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            start_new_session=True,
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Child(process, write_end)


def watch(on_closed: Callable[[], None]) -> None:
    """In the child: call `on_closed` in a daemon thread when the parent's end closes.

    If it raises, the process ends at once with exit code 1.

    Without effect in a process that was not started by `spawn`. To be called once, early: the
    variable is taken away, so that children of this process don't take the descriptor for theirs.
    """
    value = os.environ.pop(FD_VARIABLE, None)
    if value is None:
        return
    fd = int(value)
    os.set_inheritable(fd, False)

    def wait() -> None:
        while os.read(fd, 1):  # nobody writes: this returns at the end of the pipe alone
            pass
        os.close(fd)
        try:
            on_closed()
        except BaseException:
            # nobody is left to see to it: a child that can't end in its own way ends at once
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def death(code: int) -> str:
    """Say in a few words how a worker process died, by its exit code."""
    if code >= 0:
        return f"the worker died (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the worker died ({name}{', as when memory runs out' if name == 'SIGKILL' else ''})"
