"""An app for tests with real processes: its tasks fork, as libraries do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

from vidan import Run, Vidan

app = Vidan()


def square(number: int) -> int:
    return number * number


def handlers() -> list[str]:
    """Return this process's handlers of the signals that end a process."""
    found = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    return ["default" if one is signal.SIG_DFL else getattr(one, "__name__", "") for one in found]


def masked() -> list[int]:
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def context(method: str) -> Any:
    found: BaseContext = multiprocessing.get_context(method)
    return found


def ended(pid: int) -> int:
    """Return the exit code of a child, negative for a signal; fails after 20 s."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError("the child did not end")


@app.task(source=False, retries=0)
def terminates(run: Run, method: str) -> list[int | None]:
    """Start children, terminate them at once or later, and join them."""
    codes = []
    for pause in (0.0, 0.0, 0.3):
        child = context(method).Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(pause)
        child.terminate()
        child.join(20)
        codes.append(child.exitcode)
        child.kill()
    return codes


@app.task(source=False, retries=0)
def pools(run: Run, method: str) -> list[int]:
    with context(method).Pool(2) as pool:
        found = pool.map(square, range(4))
    with ProcessPoolExecutor(2, mp_context=context(method)) as executor:
        return [*found, *executor.map(square, range(4))]


@app.task(source=False, retries=0)
def inherits(run: Run, method: str) -> list[Any]:
    """Return what a child finds of its handlers and its mask."""
    with context(method).Pool(1) as pool:
        return [pool.apply(handlers), pool.apply(masked), masked()]


@app.task(source=False, retries=0)
def loads(run: Run, method: str) -> list[float]:
    from torch.utils.data import DataLoader

    loader = DataLoader([1.0, 2.0, 3.0], num_workers=2, multiprocessing_context=method)  # type: ignore[arg-type,var-annotated]
    return sorted(float(one) for one in loader)


@app.task(source=False, retries=0)
def returns(run: Run, how: str) -> int:
    """Fork, and let the child leave the task, or use its run; return how the child ended."""
    pid = os.fork()
    if pid:
        return ended(pid)
    if how == "raises":
        raise ValueError("in the child")
    if how == "exits":
        sys.exit(7)
    if how == "progresses":
        run.progress()
    return -1


@app.task(retries=0)
def reads_on(run: Run) -> list[int]:
    """Let a child go on with the loop over the frames; return how it ended, and what was read."""
    code, frames = 0, 0
    for number, batch in enumerate(run.frames()):
        frames += len(batch.indices)
        if number == 1 and (pid := os.fork()):
            code = ended(pid)
    return [code, frames]


@app.task(source=False, retries=0)
def runs_a_program(run: Run) -> str:
    """Run a program by fork and exec, with the hooks that a preexec_fn brings."""
    code = "import signal; print(signal.getsignal(signal.SIGTERM).name)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, preexec_fn=lambda: None, capture_output=True, text=True, timeout=20
    )
    return done.stdout.strip()


@app.task(source=False)
def ends(run: Run, code: int) -> str:
    """End the process in the middle of the task."""
    os._exit(code)
