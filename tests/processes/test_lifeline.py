from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.processes import eventually, is_gone
from vidan.processes import lifeline

CHILD = """
import os, sys, time
from vidan.processes import lifeline

def closed():
    print("closed", flush=True)
    if "--fail" in sys.argv:
        raise RuntimeError("can't end")
    os._exit(7)

lifeline.watch(closed)
print("ready", os.getsid(0) == os.getpid(), os.environ.get(lifeline.FD_VARIABLE), flush=True)
time.sleep(60)
"""

PARENT = """
import subprocess, sys, time
from vidan.processes import lifeline

child = lifeline.spawn("child", stdout=subprocess.PIPE)
child.stdout.readline()
bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=CLOSE)
sibling = lifeline.spawn("child", ["--fail"], stdout=subprocess.PIPE)
sibling.stdout.readline()
print(child.pid, sibling.pid, bystander.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which `child` is a module on its lifeline."""
    (tmp_path / "child.py").write_text(CHILD)
    root = Path(lifeline.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(root)))}


def started(environment: Mapping[str, str]) -> lifeline.Child:
    child = lifeline.spawn("child", env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    # its own session, and the variable is gone: its children won't take the descriptor for theirs
    assert child.stdout.readline() == b"ready True None\n"
    return child


def test_the_child_notices_the_closed_lifeline(environment: Mapping[str, str]) -> None:
    child = started(environment)
    assert child.poll() is None
    child.close()
    assert child.wait(30) == 7
    assert child.stdout is not None
    assert child.stdout.read() == b"closed\n"
    child.stdout.close()
    child.close()


def test_stop_terminates(environment: Mapping[str, str]) -> None:
    child = started(environment)
    assert child.stop(30) == -signal.SIGTERM
    assert child.stdout is not None
    child.stdout.close()


@pytest.mark.parametrize("close_fds", [True, False])
def test_children_die_with_a_killed_parent(environment: Mapping[str, str], close_fds: bool) -> None:
    script = PARENT.replace("CLOSE", str(close_fds))
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child, sibling, bystander = map(int, parent.stdout.readline().split())
    try:
        parent.kill()
        parent.wait()
        # neither the bystander nor the sibling keeps the pipe open
        assert eventually(lambda: is_gone(child) and is_gone(sibling))
        assert not is_gone(bystander)
    finally:
        os.kill(bystander, signal.SIGKILL)
        parent.stdout.close()


def test_a_grandchild_keeps_no_write_end(environment: Mapping[str, str]) -> None:
    child = started(environment)
    modes = [
        int((Path(f"/proc/{child.pid}/fdinfo") / fd.name).read_text().split()[3], 8) & os.O_ACCMODE
        for fd in Path(f"/proc/{child.pid}/fd").iterdir()
        if int(fd.name) > 2
    ]
    assert modes == [os.O_RDONLY]
    child.stop(30)
    assert child.stdout is not None
    child.stdout.close()


def test_a_process_without_a_lifeline_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lifeline.FD_VARIABLE, raising=False)

    def never() -> None:
        raise AssertionError("called without a lifeline")

    lifeline.watch(never)


def test_a_module_that_cannot_be_found_ends_by_itself() -> None:
    child = lifeline.spawn("vidan.no_such_module", stderr=subprocess.DEVNULL)
    assert child.wait(20) == 1
    child.close()
