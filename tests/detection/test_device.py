"""Devices that are missing, and the number of threads."""

from __future__ import annotations

import pytest
import torch

from vidan.detection.building import build_detector
from vidan.errors import DeviceLost, InputRejected


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:-1", "cpu:0"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises((InputRejected, DeviceLost), match=r"no such (GPU|device): "):
        build_detector(device=device)


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        build_detector(threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
