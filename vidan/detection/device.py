"""The device that a network runs on, its lanes, and frames on their way to it. Loads torch.

What is for CUDA here was not run on a GPU; what is not CUDA's own of it is tested on the CPU.
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
"""While one waits for its results, the other's frames are on their way and its kernels queued."""


@dataclass(slots=True)
class _Cores:
    """How many threads one network may use, in this whole process: torch's choice, or ours.

    Kept, since lanes change what torch says of itself.
    """

    count: int | None = None


_cores = _Cores()
_thread = threading.local()


def set_threads(count: int) -> None:
    """How many cores one network may use, in this whole process."""
    _cores.count = count
    torch.set_num_threads(count)


def _threads() -> int:
    if _cores.count is None:
        # torch knows what the process is bound to, and of no quota
        _cores.count = cores.usable(torch.get_num_threads())
    return _cores.count


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network runs: the device, and how threads share it (see Detector)."""

    device: torch.device
    lanes: int
    spread: bool
    send: Callable[[NDArray[np.uint8]], Tensor]
    """Frames as they are, uint8, on the device; to a GPU from pinned memory, without waiting."""
    half: torch.dtype = torch.bfloat16
    """What a network computes in where it may do so in half the bits."""

    @classmethod
    def of(cls, name: str) -> Place:
        """`cpu`, `cuda` or `cuda:N`; raises InputRejected, DeviceLost if it is not there."""
        device = find(name)
        if device.type == "cpu":
            return cls(device, lanes=_threads(), spread=True, send=_shared)
        half = torch.bfloat16
        if torch.cuda.get_device_capability(device) < (8, 0):
            half = torch.float16  # it would have to emulate the other
        send = Ring(CudaCopies(device)).send
        return cls(device, lanes=GPU_LANES, spread=False, send=send, half=half)

    def put(self, network: T) -> T:
        """A network, ready for inference, with its weights on the device, channels last.

        They are put in order on the CPU, and copied when this returns: kernels for that on a GPU
        would be on this thread's stream, and no lane's stream waits for it.
        """
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return network.to(self.device)

    def share(self, lane: int, lanes: int) -> None:
        """Give this thread its share: some of the cores, or a stream of its own on a GPU.

        `lane` is from 0 to `lanes` - 1. Costs nothing if it has that share.
        """
        on_cpu = self.device.type == "cpu"
        share = (self.device, lane, lanes if on_cpu else None)
        if getattr(_thread, "share", None) == share:
            return
        if on_cpu:
            # two lanes of one thread did 23.3 frames/s together, one lane of two threads 22.9
            # (NanoDet, 416x736, two cores); what is not inference goes on beside it, too
            torch.set_num_threads(max(1, _threads() // lanes + (lane < _threads() % lanes)))
        else:
            torch.cuda.set_device(self.device)
            torch.cuda.set_stream(_stream(self.device, lane))
        _thread.share = share


_streams: dict[tuple[torch.device, int], torch.cuda.Stream] = {}


def _stream(device: torch.device, lane: int) -> torch.cuda.Stream:
    """The lane's, for as long as the process lives: torch keeps memory for each stream there was.

    Threads that are the same lane of several networks share it.
    """
    made = _streams.get((device, lane))
    if made is None:
        made = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        made = _streams.setdefault((device, lane), made)
    return made


def works(device: str | torch.device) -> bool:
    """Whether a device computes: a kernel's error stays for good, one of the GPU itself longer."""
    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except torch.OutOfMemoryError:  # by others, or by what is let go next
        return True
    except (RuntimeError, AssertionError):  # the latter: torch was built without CUDA
        return False
    return True


def require(name: str) -> None:
    """Raises InputRejected, or DeviceLost for a device that is not there or can't compute."""
    if not works(find(name)):
        raise DeviceLost(f"{name} is there, and can't compute", hint="does nvidia-smi know why?")


def find(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; raises InputRejected, DeviceLost if it is not there."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name, re.ASCII)
    if match is None:
        raise InputRejected(f"no such device: {name}", hint="cpu, cuda, cuda:0, cuda:1, …")
    if name == "cpu":
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        there = ", ".join(f"cuda:{n}" for n in range(count)) or "no GPU that torch can use"
        raise DeviceLost(f"no such GPU: {name}", hint=f"there is {there}; cpu works everywhere")
    return torch.device("cuda", int(match[1] or 0))


def _shared(pixels: NDArray[np.uint8]) -> Tensor:
    """The same memory as a tensor, where torch can share it: no negative strides, writeable."""
    if not pixels.flags.c_contiguous or not pixels.flags.writeable:
        pixels = pixels.copy()
    return torch.from_numpy(pixels)
