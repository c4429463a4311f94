"""The device that a network runs on, its lanes, and how frames reach it. Loads torch.

The code for CUDA has not been run on a GPU; the parts of it that do not need CUDA are tested on
the CPU.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidan.detection import cores
from vidan.detection.ring import CudaCopies, Ring
from vidan.errors import DeviceLost, InputRejected

T = TypeVar("T", bound=nn.Module)

GPU_LANES = 2
"""Lanes on a GPU: while one waits for its results, the frames of the other are copied and its
kernels queued.
"""


@dataclass(slots=True)
class _Cores:
    """How many threads one network may use, in this whole process: torch's number, or ours.

    Kept here because lanes change the number that torch reports.
    """

    count: int | None = None


_cores = _Cores()
_thread = threading.local()


def set_threads(count: int) -> None:
    """Set how many cores one network may use, in this whole process."""
    _cores.count = count
    torch.set_num_threads(count)


def _threads() -> int:
    if _cores.count is None:
        # torch respects the cores that the process is bound to, but no quota
        _cores.count = cores.usable(torch.get_num_threads())
    return _cores.count


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network runs: the device, and how threads share it (see Detector for the limits)."""

    device: torch.device
    max_parallel: int
    prefers_small_calls: bool
    send: Callable[[NDArray[np.uint8]], Tensor]
    """Copies uint8 frames to the device; to a GPU from pinned memory, without waiting."""
    half: torch.dtype = torch.bfloat16
    """The 16-bit type in which a network may compute."""

    @classmethod
    def of(cls, name: str) -> Place:
        """Return the place for `cpu`, `cuda` or `cuda:N`.

        Raises InputRejected for another name, DeviceLost if the device is missing.
        """
        device = find(name)
        if device.type == "cpu":
            return cls(device, max_parallel=_threads(), prefers_small_calls=True, send=_shared)
        half = torch.bfloat16
        if torch.cuda.get_device_capability(device) < (8, 0):
            half = torch.float16  # this GPU would have to emulate bfloat16
        send = Ring(CudaCopies(device)).send
        return cls(device, max_parallel=GPU_LANES, prefers_small_calls=False, send=send, half=half)

    def put(self, network: T) -> T:
        """Return the network ready for inference, with its weights on the device, channels last.

        The CPU reorders the weights before they are copied: kernels that reorder them on a GPU
        would run on this thread's stream, and no lane's stream waits for that.
        """
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return network.to(self.device)

    def prepare_thread(self, lane: int, lanes: int) -> None:
        """Give this thread its share: some of the cores, or a stream of its own on a GPU.

        `lane` is from 0 to `lanes` - 1. Returns at once if the thread has that share already.
        """
        on_cpu = self.device.type == "cpu"
        share = (self.device, lane, lanes if on_cpu else None)
        if getattr(_thread, "share", None) == share:
            return
        if on_cpu:
            # two lanes of one thread did 23.3 frames/s together, one lane of two threads 22.9
            # (NanoDet, 416x736, two cores); work outside inference runs in parallel, too
            torch.set_num_threads(max(1, _threads() // lanes + (lane < _threads() % lanes)))
        else:
            torch.cuda.set_device(self.device)
            torch.cuda.set_stream(_stream(self.device, lane))
        _thread.share = share


_streams: dict[tuple[torch.device, int], torch.cuda.Stream] = {}


def _stream(device: torch.device, lane: int) -> torch.cuda.Stream:
    """Return the lane's stream, kept as long as the process lives: torch keeps memory per stream.

    Threads that are the same lane of several networks share a stream.
    """
    made = _streams.get((device, lane))
    if made is None:
        made = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        made = _streams.setdefault((device, lane), made)
    return made


def works(device: str | torch.device) -> bool:
    """Whether the device computes now.

    After an error in a kernel it never does again in this process; after an error of the GPU
    itself, in no process.
    """
    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except torch.OutOfMemoryError:  # memory used by other processes, or about to be freed
        return True
    except (RuntimeError, AssertionError):  # AssertionError: torch was built without CUDA
        return False
    return True


def require(name: str) -> None:
    """Raise InputRejected for a wrong name, DeviceLost if the device is missing or broken."""
    if not works(find(name)):
        raise DeviceLost(f"{name} exists but can't compute", hint="check it with nvidia-smi")


def find(name: str) -> torch.device:
    """Return the device `cpu`, `cuda` or `cuda:N`.

    Raises InputRejected for another name, DeviceLost if the device is missing.
    """
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name, re.ASCII)
    if match is None:
        raise InputRejected(f"no such device: {name}", hint="cpu, cuda, cuda:0, cuda:1, …")
    if name == "cpu":
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        there = ", ".join(f"cuda:{n}" for n in range(count)) or "no GPU that torch can use"
        raise DeviceLost(f"no such GPU: {name}", hint=f"available: {there}; cpu works everywhere")
    return torch.device("cuda", int(match[1] or 0))


def _shared(pixels: NDArray[np.uint8]) -> Tensor:
    """Return the frames as a tensor in the same memory, or in a copy if torch can't share it."""
    if not pixels.flags.c_contiguous or not pixels.flags.writeable:
        pixels = pixels.copy()
    return torch.from_numpy(pixels)
