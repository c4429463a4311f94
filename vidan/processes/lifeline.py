"""Child processes that never outlive their parent, however the parent dies.

The parent keeps the write end of a pipe and never writes; the child reads. When the parent exits or
is killed, its end closes, the child's read returns, and the child ends in its own way. No process
inherits the write end, so a grandchild can't keep the pipe of a dead parent open.
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
"""Environment variable that tells the child which descriptor is the read end."""

Output = int | IO[bytes] | IO[str] | None


class Child:
    """A child process on its lifeline."""

    def __init__(self, process: subprocess.Popen[bytes], write_end: int) -> None:
        self._process = process
        self._write_end: int | None = write_end

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its session and process group."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes] | None:
        """The child's output, if it was started with `stdout=subprocess.PIPE`."""
        return self._process.stdout

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, after waiting; raises TimeoutExpired after `timeout` seconds."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """Ask the child to end (SIGTERM); no effect if it has ended."""
        self._process.terminate()

    def kill(self) -> None:
        """End the child (SIGKILL); no effect if it has ended."""
        self._process.kill()

    def close(self) -> None:
        """Close the lifeline: the child ends as if this process had died."""
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None

    def stop(self, timeout: float) -> int:
        """Terminate, wait up to `timeout` seconds, then kill; return the exit code."""
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

    Because of the session only the parent gets a terminal's Ctrl-C, and decides what it means for
    the child. `env` is the whole environment (this process's own by default). `-P` keeps the
    working folder off `sys.path`, in the child and in those that multiprocessing starts from it.
    """
    read_end, write_end = os.pipe()  # not inheritable, except through pass_fds
    environment = dict(os.environ if env is None else env)
    environment[FD_VARIABLE] = str(read_end)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *args],
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

    If `on_closed` raises, the process ends at once with exit code 1.

    Has no effect in a process that `spawn` did not start. To be called once, early: it removes the
    variable, so that children of this process don't read the descriptor as their own.
    """
    value = os.environ.pop(FD_VARIABLE, None)
    if value is None:
        return
    fd = int(value)
    os.set_inheritable(fd, False)

    def wait() -> None:
        while os.read(fd, 1):  # the parent never writes: this returns at the end of the pipe
            pass
        os.close(fd)
        try:
            on_closed()
        except BaseException:
            # no parent is left to end a child that can't end in its own way
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def death(code: int) -> str:
    """Describe in a few words how a worker process died, by its exit code."""
    if code >= 0:
        return f"the worker died (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the worker died ({name}{', as when memory runs out' if name == 'SIGKILL' else ''})"
