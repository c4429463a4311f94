"""Frames on their way to a device through a ring of buffers that are used again. Loads torch.

Pinning memory takes longer than copying a batch, so it is done once a buffer. The ring is the same
on every device; what CUDA adds (pinned memory, a stream for copies, events) stands behind Copies.
It was not run on a GPU: tests run the ring with copies on the CPU.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUFFERS = 3
"""One that is being filled, one on its way, one that has arrived."""


class Copies(Protocol):
    """How bytes get from the host to a device."""

    def buffer(self, size: int) -> Tensor:
        """A buffer of so many bytes, (size,) uint8, from which copies are quick."""
        ...

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Begin to copy. Returns the tensor on the device, in order for what this thread does next
        there, and what waits until `host` may be overwritten.
        """
        ...


class Ring:
    """Sends batches of frames through a few buffers in turn; from any thread."""

    def __init__(self, copies: Copies, buffers: int = BUFFERS) -> None:
        self._copies = copies
        self._free: queue.Queue[_Buffer] = queue.Queue()
        for _ in range(buffers):
            self._free.put(_Buffer())

    def send(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(N, H, W, 3) uint8 → the same on the device. `pixels` may be changed afterwards.

        Waits for the oldest copy if all buffers are on their way.
        """
        buffer = self._free.get()
        try:
            buffer.wait()
            if buffer.memory is None or buffer.memory.numel() < pixels.size:
                buffer.memory = self._copies.buffer(pixels.size)
            host = buffer.memory[: pixels.size].view(pixels.shape)
            np.copyto(host.numpy(), pixels)
            sent, buffer.wait = self._copies.send(host)
        finally:
            self._free.put(buffer)
        return sent


@dataclass(slots=True)
class _Buffer:
    memory: Tensor | None = None
    wait: Callable[[], None] = lambda: None


class HostCopies:
    """Copies from the host to itself: what a test runs the ring with."""

    def buffer(self, size: int) -> Tensor:
        """Plain memory."""
        return torch.empty(size, dtype=torch.uint8)

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """It has arrived when this returns."""
        return host.clone(), lambda: None


class CudaCopies:
    """Copies to a GPU on a stream of their own: beside the kernels of the batch before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, size: int) -> Tensor:
        """Pinned memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """The thread's current stream waits for the copy, the thread does not."""
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            sent = host.to(self._device, non_blocking=True)
            copied = self._stream.record_event()
        current.wait_event(copied)
        sent.record_stream(current)  # else its memory could be given away while kernels read it
        return sent, copied.synchronize
