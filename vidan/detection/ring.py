"""Copies frames to a device through a ring of reused buffers. Loads torch.

Pinning memory takes longer than copying a batch, so each buffer is pinned once. The ring is the
same on every device; what CUDA adds (pinned memory, a stream for copies, events) is in CudaCopies.
It has not been run on a GPU: tests run the ring with copies on the CPU.
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
"""How many buffers a ring has: one being filled, one being copied, one that has arrived."""


class Copies(Protocol):
    """How bytes are copied from the host to a device."""

    def buffer(self, size: int) -> Tensor:
        """Return a buffer on the host, (size,) uint8, from which copies are fast."""
        ...

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Begin to copy `host`.

        Returns the tensor on the device, which this thread may use there at once, and a function
        that waits until `host` may be overwritten.
        """
        ...


class Ring:
    """Sends batches of frames through a few buffers in turn. Any thread may send."""

    def __init__(self, copies: Copies, buffers: int = BUFFERS) -> None:
        self._copies = copies
        self._free: queue.Queue[_Buffer] = queue.Queue()
        for _ in range(buffers):
            self._free.put(_Buffer())

    def send(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Copy (N, H, W, 3) uint8 frames to the device. `pixels` may be changed afterwards.

        Waits for the oldest copy if all buffers are in use.
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
    """Copies from the host to itself, for tests of the ring."""

    def buffer(self, size: int) -> Tensor:
        """Return ordinary memory."""
        return torch.empty(size, dtype=torch.uint8)

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Copy at once."""
        return host.clone(), lambda: None


class CudaCopies:
    """Copies to a GPU on a stream of its own, in parallel with the kernels of the batch before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, size: int) -> Tensor:
        """Return pinned memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Begin to copy: the thread's current stream waits for the copy, the thread does not."""
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            sent = host.to(self._device, non_blocking=True)
            copied = self._stream.record_event()
        current.wait_event(copied)
        sent.record_stream(current)  # else torch could reuse its memory while kernels read it
        return sent, copied.synchronize
