"""Finds the devices of this machine, and describes the workers that a command asks for."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from vidan.domain.bounds import DEFAULT_QUEUE
from vidan.domain.worker import WorkerOptions
from vidan.errors import InputRejected, MissingExtra

log = logging.getLogger("vidan.devices")

_GPU_DEVICES = ("nvidia*", "nvhost*", "nvmap", "nvgpu*", "dxg", "kfd")
"""Device files in /dev of GPUs: desktop and server NVIDIA, three of Jetson, WSL, ROCm."""
COUNT = "(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
"""Python expression with which a child process counts the GPUs that torch can use. `device_count`
alone may also count GPUs that torch can't use."""


def posts(
    *,
    gpus: str | None = None,
    cpus: int | None = None,
    name: str | None = None,
    slots: int = 1,
    queues: Sequence[str] = (DEFAULT_QUEUE,),
    source: str | None = None,
    app: str | None = None,
    max_frames_per_child: int | None = None,
) -> list[WorkerOptions]:
    """Return the options of each worker: one per GPU, or `cpus` processes of one thread each.

    Without a device option: one per GPU or, on a machine without GPUs, one CPU process with all
    cores. `gpus` is "all" or numbers: "0,1". Raises InputRejected for a missing GPU, MissingExtra
    without torch.
    """
    if find_spec("torch") is None:
        raise MissingExtra(
            "a worker needs torch, which is not installed", hint='pip install "vidan[worker]"'
        )
    devices = _devices(gpus, cpus)
    host = socket.gethostname()
    return [
        WorkerOptions(
            name=_worker_name(name, device, place, len(devices), host),
            device=device,
            slots=slots,
            queues=tuple(queues),
            source=source,
            app=app,
            threads=None if cpus is None else 1,
            max_frames_per_child=max_frames_per_child,
        )
        for place, device in enumerate(devices)
    ]


def _worker_name(name: str | None, device: str, place: int, count: int, host: str) -> str:
    if name is not None:
        return name if count == 1 else f"{name}-{place}"
    return f"{device.replace('cuda:', 'gpu-')}@{host}" if device != "cpu" else f"cpu-{place}@{host}"


def _devices(gpus: str | None, cpus: int | None) -> list[str]:
    if gpus is not None and cpus is not None:
        raise InputRejected("--gpus and --cpus exclude each other", hint="give one of them")
    if cpus is not None:
        if cpus < 1:
            raise InputRejected(f"--cpus {cpus}: at least 1 is needed")
        return ["cpu"] * cpus
    count = gpu_count()
    if gpus is None:
        return [f"cuda:{number}" for number in range(count)] or ["cpu"]
    wanted = list(range(count)) if gpus == "all" else _gpu_numbers(gpus)
    missing = [number for number in wanted if number >= count]
    if missing or not wanted:
        raise InputRejected(
            f"no such GPU: {', '.join(map(str, missing)) or 'none is there'}"
            f" (this machine has {count})",
            hint="--cpus N runs on processors",
        )
    return [f"cuda:{number}" for number in wanted]


def _gpu_numbers(gpus: str) -> list[int]:
    try:
        numbers = [int(part) for part in gpus.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InputRejected(f"--gpus {gpus!r} is neither `all` nor numbers", hint="such as 0,1")
    return numbers


def gpu_count() -> int:
    """Ask a short-lived child process how many GPUs torch sees."""
    found = [device for pattern in _GPU_DEVICES for device in Path("/dev").glob(pattern)]
    if sys.platform == "linux" and not found:
        return 0  # importing torch takes seconds
    asked = subprocess.run(
        [sys.executable, "-P", "-c", f"import torch; print({COUNT})"],
        capture_output=True,
        text=True,
        check=False,
    )
    count = int(asked.stdout.strip() or 0)
    if not count:
        lines = asked.stderr.strip().splitlines()
        log.warning("no GPU that torch can use%s", f": {lines[-1].strip()}" if lines else "")
    return count
