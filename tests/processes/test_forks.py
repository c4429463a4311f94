"""What a forked child keeps of a process that handles signals and runs code of others."""

from __future__ import annotations

import subprocess
import sys

SIGNALLED = """
import os, signal, threading, time
from vidan.processes import forks

caught = []
forks.handle([signal.SIGTERM], lambda number, frame: caught.append(number))
codes = []

def work():
    for _ in range(300):
        pid = os.fork()
        if pid == 0:
            time.sleep(20)
            os._exit(0)
        os.kill(pid, signal.SIGTERM)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

thread = threading.Thread(target=work)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
print(set(codes), caught, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""

NATIVE = """
import ctypes, os
from vidan.processes.forks import Contained

with Contained():
    pid = ctypes.CDLL(None).fork()
    if pid == 0:
        print("child", flush=True)
print("after", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def output(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def test_a_signal_that_comes_at_once_ends_the_child() -> None:
    """Also between the fork and the child's first step, where it still has its parent's handler."""
    assert output(SIGNALLED) == ["{-15} [15] set()"]


def test_a_fork_that_python_does_not_see_is_found_by_the_process_id() -> None:
    assert output(NATIVE) == ["child", "after 0"]
