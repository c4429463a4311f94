"""The device that a network runs on, and frames on their way to it. Loads torch."""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidan.errors import InputRejected


def find_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; raises InputRejected if it is not there."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name, re.ASCII)
    if match is None:
        raise InputRejected(f"no such device: {name}", hint="cpu, cuda, cuda:0, cuda:1, …")
    if name == "cpu":
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        there = ", ".join(f"cuda:{n}" for n in range(count)) or "no GPU that torch can use"
        raise InputRejected(f"no such GPU: {name}", hint=f"there is {there}; cpu works everywhere")
    return torch.device(name)


def set_threads(count: int) -> None:
    """How many cores one network may use, in this whole process."""
    torch.set_num_threads(count)


def to_device(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Frames as they are, uint8, on the device; to a GPU from pinned memory, without waiting."""
    if not pixels.flags.c_contiguous or not pixels.flags.writeable:
        pixels = pixels.copy()  # torch takes neither negative strides nor read-only memory
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
