"""GPUs that exist but do not work: what is reported, and where. The tests need no GPU."""

from __future__ import annotations

import logging
import subprocess
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from vidan.detection import cache as detectors
from vidan.detection import device as device_module
from vidan.detection.building import device_lost
from vidan.detection.cache import DetectorCache
from vidan.detection.device import find, require, works
from vidan.errors import DeviceLost, VidanError
from vidan.supervisor import devices


def test_a_model_that_a_broken_gpu_can_not_hold_is_no_fault_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise its worker would continue, and fail each scenario that it claims."""

    def broken(**_: Any) -> Any:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(detectors, "build_detector", broken)
    told: list[DeviceLost] = []
    cache = DetectorCache("cuda:99", on_lost=told.append)
    with pytest.raises(DeviceLost, match="cuda:99 is lost to this process: CUDA error"):
        cache.get(lambda _: nullcontext())
    assert len(told) == 1


def test_on_a_cpu_an_error_is_just_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> Any:
        raise VidanError("no weights")

    monkeypatch.setattr(detectors, "build_detector", broken)
    told: list[DeviceLost] = []
    with pytest.raises(VidanError, match="no weights"):
        DetectorCache(on_lost=told.append).get(lambda _: nullcontext())
    assert told == []
    assert device_lost(RuntimeError("x"), "cpu") is None


def test_a_gpu_that_is_there_has_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert works("cpu")
    assert not works("cuda:99")
    monkeypatch.setattr(device_module, "find", lambda _: torch.device("cuda", 99))
    with pytest.raises(DeviceLost, match="can't compute"):
        require("cuda:99")


def test_the_first_gpu_needs_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device refuses a device without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert find("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("out", "err", "count"),
    [("2\n", "", 2), ("0\n", "UserWarning: the driver is too old\n", 0), ("", "no torch\n", 0)],
)
def test_why_no_gpu_is_used_is_told(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    out: str,
    err: str,
    count: int,
) -> None:
    monkeypatch.setattr(devices, "_GPU_DEVICES", ("null",))
    answer = subprocess.CompletedProcess([], 0, out, err)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with caplog.at_level(logging.WARNING):
        assert devices.gpu_count() == count
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if count else [f"no GPU that torch can use: {err.strip()}"])
