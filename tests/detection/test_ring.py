"""The buffers of a ring are reused, but never while they are being copied."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidan.detection.ring import HostCopies, Ring


class LateCopies(HostCopies):
    """Copies as late as a GPU may: when they are waited for."""

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.under_way: list[Callable[[], None]] = []

    def buffer(self, size: int) -> Tensor:
        self.buffers.append(super().buffer(size))
        return self.buffers[-1]

    def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
        sent = torch.zeros_like(host)

        def copy() -> None:
            if copy in self.under_way:
                self.under_way.remove(copy)
                sent.copy_(host)

        self.under_way.append(copy)
        return sent, copy


def frames(value: int, count: int = 2) -> NDArray[np.uint8]:
    return np.full((count, 4, 6, 3), value, np.uint8)


def test_no_buffer_is_overwritten_before_its_copy_has_ended() -> None:
    copies = LateCopies()
    ring = Ring(copies, buffers=3)
    sent = []
    for value in range(10):
        sent.append(ring.send(frames(value)))
        assert len(copies.under_way) == min(value + 1, 3)  # it waits only for the oldest
    while copies.under_way:
        copies.under_way[0]()
    assert [int(one[0, 0, 0, 0]) for one in sent] == list(range(10))
    assert all(bool((one == one[0, 0, 0, 0]).all()) for one in sent)


def test_buffers_are_used_again_and_grow_once() -> None:
    copies = LateCopies()
    ring = Ring(copies, buffers=2)
    for count in (1, 1, 3, 3, 2, 1, 3):
        assert ring.send(frames(1, count)).shape == (count, 4, 6, 3)
    assert sorted(len(buffer) for buffer in copies.buffers) == [72, 72, 216, 216]


def test_frames_may_be_changed_once_they_are_sent() -> None:
    pixels = frames(5)
    sent = Ring(HostCopies()).send(pixels)
    pixels[:] = 0
    assert bool((sent == 5).all())


def test_frames_that_torch_can_not_share() -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(1, 4, 6, 3)[:, :, ::-1]
    pixels.flags.writeable = False
    assert np.array_equal(Ring(HostCopies()).send(pixels).numpy(), pixels)


def test_several_threads_send_at_once() -> None:
    ring = Ring(HostCopies(), buffers=2)
    wrong: list[int] = []

    def send(value: int) -> None:
        sent = [ring.send(frames(value)) for _ in range(200)]
        wrong.extend(value for one in sent if not bool((one == value).all()))

    threads = [threading.Thread(target=send, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_copy_that_fails_loses_no_buffer() -> None:
    class Failing(HostCopies):
        fails = True

        def send(self, host: Tensor) -> tuple[Tensor, Callable[[], None]]:
            if self.fails:
                raise RuntimeError("out of memory")
            return super().send(host)

    copies = Failing()
    ring = Ring(copies, buffers=1)
    try:
        ring.send(frames(1))
    except RuntimeError:
        copies.fails = False
    assert bool((ring.send(frames(2)) == 2).all())
